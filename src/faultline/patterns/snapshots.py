"""Snapshots: what a long stream folds to, kept so that the next one reads only what came later.

    orders = Snapshots(store, dsn, initial=Order, evolve=evolve, dump=asdict, restore=Order.of, schema=3)
    order = await orders.load("order-123")
    await store.append("order-123", order.version, decide(order.state, command))
    await orders.maybe_snapshot("order-123", order)

**Promise.** `load` gives what a fold of the whole stream gives. A snapshot is only a cache of that: one of another
`schema`, or one that `restore` refuses, is as good as none, and losing the table loses nothing. A slow writer never
puts an older one in place of a newer.

**Raise `schema`** when `evolve`, `dump`, or an upcaster that it relies on changes: snapshots know nothing of that.
Each schema has its own, so two versions of a service can run side by side; delete those of the old one afterwards.

**Not promised.** As of a moment: fold `store.read(stream, until=...)`. That you need them: measure how long a stream
has to be before they pay.

**Cost.** `load`: two round trips, and at most `every` events plus what one append adds, if `maybe_snapshot` follows
each `load`; that writes once in `every` events, and otherwise does nothing.

Sources: Young, *CQRS Documents* (2010), "Rolling snapshots".
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from faultline.patterns.connections import Connections, OverPostgres

if TYPE_CHECKING:
    from collections.abc import Callable

    from faultline.patterns.event_store import EventStore
    from faultline.patterns.upcasters import Recorded

S = TypeVar("S")
log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshots (
    stream text NOT NULL,
    schema int NOT NULL,
    version int NOT NULL,
    state jsonb NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream, schema)
)
"""
LATEST = "SELECT version, state FROM snapshots WHERE stream = %s AND schema = %s"
KEEP = """
INSERT INTO snapshots AS kept (stream, schema, version, state) VALUES (%s, %s, %s, %s::jsonb)
ON CONFLICT (stream, schema) DO UPDATE SET version = EXCLUDED.version, state = EXCLUDED.state, taken_at = DEFAULT
WHERE kept.version < EXCLUDED.version
"""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """What a stream folds to."""

    state: S
    version: int
    """How many events it has: what to expect when appending."""
    read: int
    """How many of them had to be read."""


class Snapshots(OverPostgres, Generic[S]):
    """Of one kind of stream, in the table `snapshots` of the database `dsn`. An `async with` closes its connections."""

    def __init__(
        self,
        store: EventStore,
        dsn: str,
        *,
        initial: Callable[[], S],
        evolve: Callable[[S, Recorded], S],
        dump: Callable[[S], Any],
        restore: Callable[[Any], S],
        schema: int,
        every: int = 100,
        connections: int = 10,
    ) -> None:
        """Talk to nobody yet. `dump` gives what JSON can say, and `restore` takes it, or raises.

        `every`: how many events are worth a snapshot. `connections`: how many ask for one at once. Raises `ValueError`
        for less than one.
        """
        if every < 1:
            raise ValueError(f"no snapshot of every {every} events")
        self._store = store
        self._initial, self._evolve, self._dump, self._restore = initial, evolve, dump, restore
        self._schema, self._every = schema, every
        self._connections = Connections(dsn, {}, most=connections)

    async def create(self) -> None:
        """Make the table unless it is there; any number of processes may do so at once."""
        async with self._making("snapshots") as session:
            await session.execute(SCHEMA)

    async def load(self, stream: str) -> Loaded[S]:
        """What the stream folds to now. Raises what `evolve` raises, and the client's errors."""
        state, version = await self._latest(stream)
        events = await self._store.read(stream, version)
        for event in events:
            state = self._evolve(state, event)
        last = events[-1].version if events else version
        return Loaded(state, last, last - version)

    async def maybe_snapshot(self, stream: str, loaded: Loaded[S]) -> bool:
        """Keep what was loaded, if that took `every` events or more; whether it was kept."""
        if loaded.read < self._every:
            return False
        row = (stream, self._schema, loaded.version, json.dumps(self._dump(loaded.state)))
        async with self._connections.one() as session:
            return (await session.execute(KEEP, row)).rowcount == 1

    async def _latest(self, stream: str) -> tuple[S, int]:
        async with self._connections.one() as session:
            row = await (await session.execute(LATEST, (stream, self._schema))).fetchone()
        if row:
            try:
                return self._restore(row[1]), row[0]
            except Exception:  # a cache that is spoilt must not stand in the way of what it caches
                log.warning("a snapshot of %s, schema %d, is spoilt: folding all events", stream, self._schema)
        return self._initial(), 0
