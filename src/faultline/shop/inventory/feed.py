"""Who watches stock hears of every change: one reader of the database for all watchers of this process.

    commit, here ────────────────────┐                      ┌─► Watcher: the newest level of each product that it has
    commit at the other replica ─► NOTIFY ─► one SELECT ────┼─► Watcher     not been told of, however many there were
    nobody has said anything for 1 s ┘   (since the last)   └─► Watcher

The SELECT asks what the one before it did not see, by the numbers of transactions and not by time or position: so a
transaction that commits late is not passed over. A resume token is the snapshot that a watcher has heard everything of.

**NOTIFY** only wakes. It is said after the commit, by a task, for many commits at once: within a transaction it takes a
lock of the whole server until the commit is on disk, and all reservations would wait for each other. Whoever dies
between the two has not said it, so a reader that has watchers looks after `AT_LEAST` seconds by itself.

**When the database is away** no heart-beat claims that nothing has changed: the streams end, UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from psycopg import AsyncConnection, Error
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout

from faultline.shop.inventory.domain import Level, Place, Snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from faultline.shop.inventory.store import Seen, Stock

CHANNEL = "stock"
LISTENER = "inventory-feed"  # the name of the connection that listens
AT_LEAST = 1.0  # seconds
AT_MOST = 0.02  # seconds between two SELECTs, and between two NOTIFYs
PATIENCE, LONGEST = 5.0, 12.0  # seconds for a SELECT: until watchers are told, until it is given up
MOST = 100_000  # products of all watchers together, each counted for each of them

AWAY = "the database does not answer"
ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""When a connection on which nothing is said is asked whether it is still there: seconds, seconds, times."""

log = logging.getLogger(__name__)

NOTHING = Snapshot(1, 1)
"""Of somebody who has seen nothing."""


class Interrupted(Exception):
    """The stream is over, and everything that was sent is true: go on elsewhere with the last token."""


class TooMany(Exception):
    """Nothing has happened: as many watch already as there is room for."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a watcher is told at once."""

    levels: Sequence[Level]
    place: Place
    anew: bool


class Watcher:
    """What one watcher has not been told yet: at most one level for each of its products."""

    def __init__(self, skus: frozenset[str], resumed: Place | None) -> None:
        self.skus = skus
        self.resumed = resumed
        self.joined = False
        self._levels: dict[str, Level] = {}
        self._place: Place | None = None
        self._anew = False
        self._news = asyncio.Event()
        self._end: Exception | None = None

    def join(self, seen: Seen) -> None:
        """Begin: with all levels, or with what has changed since the place that it comes from."""
        now = Place.of(sorted(self.skus), seen.history, seen.snapshot)
        from_ = self.resumed if self.resumed and self.resumed.leads_to(now) else None
        self.joined, self._anew, self._place = True, from_ is None, now
        self._levels = {
            level.sku: level
            for level, by in seen.levels
            if level.sku in self.skus and not (from_ and from_.snapshot.sees(by))
        }
        self._news.set()

    def tell(self, levels: Sequence[Level], snapshot: Snapshot) -> None:
        """These have changed up to this snapshot; what it was not told of them before does not matter any more."""
        assert self._place
        self._place = replace(self._place, snapshot=snapshot)
        if levels:
            self._levels.update((level.sku, level) for level in levels)
            self._news.set()

    def end(self, why: Exception) -> None:
        """Nothing more will come."""
        self._end = why
        self._news.set()

    async def next(self, *, within: float) -> Changes:
        """What has changed, as soon as something has; nothing, after so many seconds. Raises `Interrupted`."""
        try:
            async with asyncio.timeout(within):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
        if self._end:
            raise self._end
        if self._place is None:
            raise Interrupted(AWAY)
        changes = Changes(tuple(self._levels.values()), self._place, self._anew)
        self._levels, self._anew = {}, False
        return changes


class Feed:
    """All watchers of this process."""

    def __init__(self, database: str, name: str) -> None:
        """`name`: of this process; the others have other ones."""
        self._database = database
        self._name = name
        self._watchers: set[Watcher] = set()
        self._of: defaultdict[str, set[Watcher]] = defaultdict(set)
        self._snapshot: Snapshot | None = None
        self._wake = asyncio.Event()
        self._bell = asyncio.Event()
        self._ended = False

    def changed(self) -> None:
        """Something has been committed by this process."""
        self._wake.set()
        self._bell.set()

    @contextmanager
    def watching(self, skus: frozenset[str], resumed: Place | None) -> Iterator[Watcher]:
        """Hear of these while the block runs. Raises `TooMany`, and `Interrupted` if the process is about to end."""
        if self._ended:
            raise Interrupted("this process ends")
        if sum(len(one.skus) for one in self._watchers) + len(skus) > MOST:
            raise TooMany(f"{MOST} products are watched here already")
        watcher = Watcher(skus, resumed)
        self._watchers.add(watcher)
        self._wake.set()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            for sku in skus:
                self._of[sku].discard(watcher)
                if not self._of[sku]:
                    del self._of[sku]

    def end(self) -> None:
        """Have all streams end: the process does."""
        self._ended = True
        self._interrupt("this process ends")

    async def run(self, stock: Stock) -> NoReturn:
        """Read, listen and ring until this is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for work in (lambda: self._read(stock), self._listen, lambda: self._ring(stock)):
                tasks.create_task(_again(work))
        raise AssertionError("none of these ends")

    async def _read(self, stock: Stock) -> None:
        try:
            async with asyncio.timeout(AT_LEAST if self._watchers else None):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        if not self._watchers:
            self._snapshot = None
            return
        joining = [watcher for watcher in self._watchers if not watcher.joined]
        alarm = asyncio.get_running_loop().call_later(PATIENCE, self._interrupt, AWAY)
        try:
            async with asyncio.timeout(LONGEST):
                all_of = {sku for watcher in joining for sku in watcher.skus}
                seen = await stock.changes(self._of.keys(), since=self._snapshot or NOTHING, all_of=all_of)
        except (Error, PoolTimeout, TimeoutError):
            self._interrupt(AWAY)
            raise
        finally:
            alarm.cancel()
        self._tell(seen, joining)

    def _tell(self, seen: Seen, joining: Sequence[Watcher]) -> None:
        before = self._snapshot or seen.snapshot
        changed: defaultdict[Watcher, list[Level]] = defaultdict(list)
        for level, by in seen.levels:
            for watcher in () if before.sees(by) else self._of.get(level.sku, ()):
                changed[watcher].append(level)
        for watcher in self._watchers.difference(joining):
            if watcher.joined:  # or it has come while this was read
                watcher.tell(changed.get(watcher, ()), seen.snapshot)
        for watcher in self._watchers.intersection(joining):
            watcher.join(seen)
            for sku in watcher.skus:
                self._of[sku].add(watcher)
        self._snapshot = seen.snapshot

    async def _listen(self) -> None:
        named = make_conninfo(self._database, application_name=LISTENER, **ALIVE)
        async with await AsyncConnection.connect(named, autocommit=True) as connection:
            await connection.execute("LISTEN stock")
            self._wake.set()  # what was said before this
            async for notify in connection.notifies():
                if notify.payload != self._name:
                    self._wake.set()

    async def _ring(self, stock: Stock) -> None:
        await self._bell.wait()
        self._bell.clear()
        await stock.ring(CHANNEL, self._name)

    def _interrupt(self, why: str) -> None:
        for watcher in self._watchers:
            watcher.end(Interrupted(why))
        self._watchers.clear()
        self._of.clear()
        self._snapshot = None


async def _again(work: Callable[[], Awaitable[None]]) -> NoReturn:
    while True:
        try:
            await work()
        except (Error, PoolTimeout, TimeoutError, OSError) as error:
            log.warning("the feed of stock: to be tried again", extra={"reason": repr(error)})
            await asyncio.sleep(AT_LEAST / 4)
        await asyncio.sleep(AT_MOST)
