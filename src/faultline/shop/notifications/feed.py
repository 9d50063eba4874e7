"""Whoever is looking is told at once: one connection that listens, for all listeners of this process.

    commit, at any replica ── NOTIFY recipient ─► Feed ─► Listener: look ─► SELECT number > seen, a page ─► socket
    every `AT_LEAST` seconds ─ one SELECT of all last numbers ─┘

A wake-up says only that there may be something; what there is each listener reads from the store, behind what it has
sent. It is set up before the first look, and taken back before each: so there is no seam between what is there and what
comes, and what is lost is a wake-up and not a notification. A listener holds one page at most, whatever waits for it.

**When the database is away** no heart-beat says that there is nothing new: streams end, and are resumed elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from psycopg import AsyncConnection, Error
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout

from faultline.shop.notifications.store import CHANNEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from faultline.shop.notifications.store import Notifications

LISTENER = "notifications-feed"  # the name of the connection that listens
AT_LEAST = 2.0  # seconds between looks that nobody has asked for
PATIENCE = 5.0  # seconds for a look at the database
SOON = 0.25  # seconds after which what has failed is tried again
MOST = 1000  # listeners of this process
ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""When a connection on which nothing is said is asked whether it is still there: seconds, seconds, times."""

log = logging.getLogger(__name__)


class Over(Exception):
    """The stream ends here, and what was sent is all true: go on elsewhere, behind that."""


class TooMany(Exception):
    """Nothing has happened: as many listen already as there is room for."""


class Listener:
    """One stream: whether it should look, and whether it is over."""

    def __init__(self, seen: int) -> None:
        """`seen`: the number up to which it has been told; whoever tells moves it on."""
        self.seen = seen
        self._news = asyncio.Event()
        self._over = False

    def wake(self) -> None:
        """There may be something new."""
        self._news.set()

    def end(self) -> None:
        """Nothing more is to be told."""
        self._over = True
        self._news.set()

    def looks(self) -> None:
        """What was said until now it is about to see; call this before looking. Raises `Over`."""
        if self._over:
            raise Over
        self._news.clear()

    async def woken(self, *, within: float) -> bool:
        """Whether it should look again; False after so many seconds in which there was no reason to."""
        try:
            async with asyncio.timeout(within):
                await self._news.wait()
        except TimeoutError:
            return False
        return True


class Feed:
    """All listeners of this process."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._of: dict[str, set[Listener]] = {}
        self._ended = False

    @property
    def listeners(self) -> int:
        """How many there are."""
        return sum(map(len, self._of.values()))

    def admit(self) -> None:
        """Raise `TooMany`, or `Over` if the process is to end, where a listener would be refused."""
        if self._ended:
            raise Over("this process ends")
        if self.listeners >= MOST:
            raise TooMany(f"{MOST} listen here already")

    @contextmanager
    def listening(self, recipient: str, seen: int) -> Iterator[Listener]:
        """Be woken when there may be something behind `seen`, while the block runs. Raises as `admit`."""
        self.admit()
        listener = Listener(seen)
        self._of.setdefault(recipient, set()).add(listener)
        try:
            yield listener
        finally:
            if mine := self._of.get(recipient):
                mine.discard(listener)
                if not mine:
                    del self._of[recipient]

    def end(self) -> None:
        """Have all streams end: the process does."""
        self._ended = True
        self._interrupt()

    async def run(self, notifications: Notifications) -> NoReturn:
        """Listen, and look now and then, until this is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_again(self._listen))
            tasks.create_task(_again(lambda: self._look(notifications)))
        raise AssertionError("none of these ends")

    async def _listen(self) -> None:
        named = make_conninfo(self._database, application_name=LISTENER, **ALIVE)
        async with await AsyncConnection.connect(named, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}".encode())
            self._wake_all()  # what was said before this
            async for notify in connection.notifies():
                for listener in self._of.get(notify.payload, ()):
                    listener.wake()

    async def _look(self, notifications: Notifications) -> None:
        await asyncio.sleep(AT_LEAST)
        if not self._of:
            return
        try:
            async with asyncio.timeout(PATIENCE):
                last = await notifications.last(self._of.keys())
        except (Error, PoolTimeout, TimeoutError):
            self._interrupt()
            raise
        for recipient, number in last.items():
            for listener in self._of.get(recipient, ()):
                if listener.seen < number:
                    listener.wake()

    def _wake_all(self) -> None:
        for listeners in self._of.values():
            for listener in listeners:
                listener.wake()

    def _interrupt(self) -> None:
        for listeners in self._of.values():
            for listener in listeners:
                listener.end()


async def _again(work: Callable[[], Awaitable[None]]) -> NoReturn:
    while True:
        try:
            await work()
        except (Error, PoolTimeout, TimeoutError, OSError) as error:
            log.warning("the feed of notifications: to be tried again", extra={"reason": repr(error)})
            await asyncio.sleep(SOON)
