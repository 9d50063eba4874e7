"""A wall clock that is wrong, as on a machine whose clock nobody has set."""

import datetime as datetimes
import time
from typing import Self


def shift_wall_clock(offset: float) -> None:
    """Let every way of Python to ask for the time of day be wrong by `offset` seconds, for all code imported later.

    The monotonic clocks stay as they are. For this process only, and for good.
    """
    _shift_seconds(offset)
    _shift_structs()
    _shift_datetimes(datetimes.timedelta(seconds=offset))


def _shift_seconds(offset: float) -> None:
    seconds, nanoseconds = time.time, time.time_ns
    clock, clock_ns = time.clock_gettime, time.clock_gettime_ns
    more = int(offset * 1e9)
    time.time = lambda: seconds() + offset
    time.time_ns = lambda: nanoseconds() + more
    time.clock_gettime = lambda which: clock(which) + (offset if which == time.CLOCK_REALTIME else 0.0)
    time.clock_gettime_ns = lambda which: clock_ns(which) + (more if which == time.CLOCK_REALTIME else 0)


def _shift_structs() -> None:
    local, utc = time.localtime, time.gmtime
    time.localtime = lambda at=None: local(time.time() if at is None else at)
    time.gmtime = lambda at=None: utc(time.time() if at is None else at)


def _shift_datetimes(offset: datetimes.timedelta) -> None:
    class datetime(datetimes.datetime):  # noqa: N801 - it takes the place of the one with this name
        @classmethod
        def now(cls, tz: datetimes.tzinfo | None = None) -> Self:
            return super().now(tz) + offset

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
