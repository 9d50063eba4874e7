"""A wall clock that is wrong, as on a machine whose clock nobody has set, or that stands still."""

import datetime as datetimes
import time
from collections.abc import Callable
from typing import Self

Shown = Callable[[float], float]
"""What the wall clock shows when it should show this: seconds since 1970."""


def shift_wall_clock(offset: float) -> None:
    """Let every way of Python to ask for the time of day be wrong by `offset` seconds, for all code imported later.

    The monotonic clocks stay as they are. For this process only, and for good.
    """
    _replace(lambda right: right + offset)


def stop_wall_clock(at: float) -> None:
    """Let every way of Python to ask for the time of day give this instant, likewise."""
    _replace(lambda _: at)


def _replace(shown: Shown) -> None:
    _replace_seconds(shown)
    _replace_structs()
    _replace_datetimes()


def _replace_seconds(shown: Shown) -> None:
    clock, clock_ns = time.clock_gettime, time.clock_gettime_ns
    right = time.time
    time.time = lambda: shown(right())
    time.time_ns = lambda: int(shown(right()) * 1e9)
    time.clock_gettime = lambda which: time.time() if which == time.CLOCK_REALTIME else clock(which)
    time.clock_gettime_ns = lambda which: time.time_ns() if which == time.CLOCK_REALTIME else clock_ns(which)


def _replace_structs() -> None:
    local, utc = time.localtime, time.gmtime
    time.localtime = lambda at=None: local(time.time() if at is None else at)
    time.gmtime = lambda at=None: utc(time.time() if at is None else at)


def _replace_datetimes() -> None:
    class datetime(datetimes.datetime):  # noqa: N801 - it takes the place of the one with this name
        @classmethod
        def now(cls, tz: datetimes.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Self:
            return cls.now(datetimes.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Self:
            return cls.now()

    class date(datetimes.date):  # noqa: N801 - as above
        @classmethod
        def today(cls) -> Self:
            now = datetime.now()
            return cls(now.year, now.month, now.day)

    datetimes.datetime, datetimes.date = datetime, date  # type: ignore[misc] # replacing them is the point
