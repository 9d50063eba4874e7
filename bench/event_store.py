"""Our event store beside eventsourcing, on a PostgreSQL that flushes each commit, with a bare INSERT as the limit.

    python -m bench.event_store

Starts its own server; takes about half a minute. Goals, ES1: one event appended takes at most 1/0.9 of the time of a
row inserted into a table with one key; 300,000 events a second are read back and folded.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from importlib.metadata import version as version_of
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import psycopg
from bench.interleave import compare, goal, machine, table
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict

from faultline.components import Instance, Supervisor
from faultline.patterns import EventStore, Fact

RAW, KEYS, OURS, PEER = "raw INSERT, one key", "raw INSERT, our three keys", "faultline", "eventsourcing"
APPEND, REPLAY = 1 / 0.9, 300_000
CALLS, ROUNDS = 25, 40
EVENTS, READS = 1000, 10
KEYED = """
INSERT INTO bare (stream, version, id, type, schema, data, headers, recorded_at)
VALUES ('bare', %s, %s, 'line-added', 1, %s, '{}', now())
"""
LINE = {"sku": "hat", "quantity": 2, "price": {"amount": 2000, "currency": "EUR"}}


class Order(Aggregate):
    """As eventsourcing has it."""

    @event("Placed")
    def __init__(self) -> None:
        self.lines = 0

    @event("LineAdded")
    def add(self, line: dict[str, Any]) -> None:
        self.lines += line["quantity"]


class Ours:
    """Streams that grow by one event a call."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._versions: dict[str, int] = {}

    async def append(self, stream: str) -> None:
        number = self._versions.get(stream, 0)
        await self._store.append(stream, number, [Fact(id=f"{stream}/{number}", type="line-added", data=LINE)])
        self._versions[stream] = number + 1


def peer(postgres: Instance) -> Application[UUID]:
    """On the same server; it makes its own tables."""
    place = conninfo_to_dict(postgres.url)
    return Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": "postgres",
            "POSTGRES_HOST": str(place["host"]),
            "POSTGRES_PORT": str(place["port"]),
            "POSTGRES_USER": str(place["user"]),
            "POSTGRES_PASSWORD": "none is asked for",
        }
    )


async def appended(raw: psycopg.AsyncConnection, store: EventStore, app: Application[UUID]) -> bool:
    """One event a call, each by itself on the disk before the next."""
    await raw.execute("CREATE TABLE plain (id bigserial PRIMARY KEY, type text NOT NULL, data jsonb NOT NULL)")
    await raw.execute("CREATE TABLE bare (LIKE events INCLUDING ALL)")
    version, ours, order = count(1), Ours(store), Order()
    app.save(order)

    async def bare() -> None:
        await raw.execute("INSERT INTO plain (type, data) VALUES (%s, %s)", ["line-added", json.dumps(LINE)])

    async def keyed() -> None:
        number = next(version)
        await raw.execute(KEYED, [number, f"bare/{number}", json.dumps(LINE)])

    async def theirs() -> None:
        order.add(LINE)
        app.save(order)

    candidates = {RAW: bare, KEYS: keyed, OURS: lambda: ours.append("appended"), PEER: theirs}
    found = await compare(candidates, base=RAW, calls=CALLS, rounds=ROUNDS, chance=random.Random(5))
    print(f"\nES1  append one event, flushed to the disk: us, median of {ROUNDS} rounds of {CALLS}; ratio to raw")
    table(found)
    return goal(f"ES1 x{found[OURS].ratio:.2f} <= x{APPEND:.2f}", found[OURS].ratio <= APPEND)


async def replayed(raw: psycopg.AsyncConnection, store: EventStore, app: Application[UUID]) -> bool:
    """One stream read and folded, again and again."""
    facts = [Fact(id=f"long/{n}", type="line-added", data=LINE) for n in range(EVENTS)]
    await store.append("long", 0, facts)
    order = Order()
    for _ in range(EVENTS):
        order.add(LINE)
    app.save(order)

    async def bare() -> int:
        rows = await raw.execute("SELECT data FROM events WHERE stream = 'long' ORDER BY version")
        return sum(row[0]["quantity"] for row in await rows.fetchall())

    async def ours() -> int:
        return sum(one.data["quantity"] for one in await store.read("long"))

    async def theirs() -> int:
        found: Order = app.repository.get(order.id)
        return found.lines

    rates: dict[str, list[float]] = {}
    for _ in range(READS):
        for name, fold in ((RAW.replace("INSERT, one key", "SELECT"), bare), (OURS, ours), (PEER, theirs)):
            began = time.perf_counter()
            assert await fold() == 2 * EVENTS
            rates.setdefault(name, []).append(EVENTS / (time.perf_counter() - began))
    print(f"\nES1  read and fold a stream of {EVENTS}: events a second, median of {READS}")
    for name, found in rates.items():
        print(f"  {name:24} {median(found):10,.0f}  ({min(found):,.0f}-{max(found):,.0f})")
    rate = median(rates[OURS])
    return goal(f"ES1 {rate:,.0f} >= {REPLAY:,} events/s", rate >= REPLAY)


async def main() -> bool:
    """Whether the goals are met."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user  # noqa: ASYNC240
        async with Supervisor(folder / "servers") as supervisor:
            postgres = await supervisor.start("postgres")
            raw = await psycopg.AsyncConnection.connect(postgres.url, autocommit=True)
            row = await (await raw.execute("SHOW server_version")).fetchone()
            assert row
            peers = ", ".join(f"{name} {version_of(name)}" for name in ("psycopg", "eventsourcing"))
            print(f"{machine()}\nPostgreSQL {row[0]}, fsync on, {peers}, seed 5")
            async with raw, EventStore(postgres.url) as store:
                await store.create()
                app = peer(postgres)
                try:
                    met = [await appended(raw, store, app), await replayed(raw, store, app)]
                finally:
                    app.close()
    print(machine())
    return all(met)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
