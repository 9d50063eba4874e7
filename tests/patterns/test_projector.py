"""What a projection promises, on a real PostgreSQL: a fold of all events, rebuilt with everything running."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from faultline.components import Supervisor
from faultline.patterns import START, EventStore, Fact, Position, Projector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.patterns.conftest import Until

    from faultline.patterns import Recorded

    Connection = psycopg.AsyncConnection[tuple[Any, ...]]

connect = psycopg.AsyncConnection.connect
TOTAL = "SELECT coalesce(sum(sold), 0)::int FROM sales.totals"


@pytest.fixture
async def dsn(tmp_path: Path) -> AsyncIterator[str]:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        yield (await supervisor.start("postgres", settings={"fsync": False})).url


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[EventStore]:
    async with EventStore(dsn) as store:
        await store.create()
        yield store


async def make(tx: Connection) -> None:
    await tx.execute("CREATE TABLE totals (stream text PRIMARY KEY, sold int NOT NULL, last int NOT NULL)")


async def sold(tx: Connection, event: Recorded) -> None:
    """The count of a stream's events; one that comes twice, or out of order, breaks it."""
    row = ((event.stream, event.version),)
    changed = await tx.execute(
        "INSERT INTO totals VALUES (%s, 1, 1) ON CONFLICT (stream)"
        " DO UPDATE SET sold = totals.sold + 1, last = totals.last + 1 WHERE totals.last + 1 = %s",
        row[0],
    )
    assert changed.rowcount == 1, f"{event} came out of order"


def projector(store: EventStore, dsn: str, **settings: Any) -> Projector:
    return Projector(store, dsn, **{"name": "sales", "create": make, "handlers": {"sold": sold}} | settings)


async def sell(store: EventStore, stream: str, count: int, after: int = 0) -> None:
    for version in range(after, after + count):
        await store.append(stream, version, [Fact(id=f"{stream}-{version}", type="sold", data={})])


async def one_total(reader: Connection) -> int:
    row = await (await reader.execute(TOTAL)).fetchone()
    assert row
    return int(row[0])


async def total(dsn: str) -> int:
    async with await connect(dsn) as reader:
        return await one_total(reader)


async def catch_up(mine: Projector) -> None:
    while await mine.run_once():
        pass


async def schemas(dsn: str) -> list[str]:
    async with await connect(dsn) as reader:
        found = await reader.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'sales%' ORDER BY 1")
        return [row[0] for row in await found.fetchall()]


async def test_events_take_effect_once_page_by_page(dsn: str, store: EventStore) -> None:
    await sell(store, "hat", 5)
    await store.append("other", 0, [Fact(id="x", type="nobody hears it", data={})])
    async with projector(store, dsn) as mine:
        await asyncio.gather(*(mine.create() for _ in range(5)))
        assert (await mine.position(), await mine.lag()) == (START, 6)
        assert [await mine.run_once(4), await mine.run_once(4), await mine.run_once(4)] == [4, 2, 0]
        assert await mine.lag() == 0
        await mine.create()
        await sell(store, "hat", 1, after=5)
        assert await mine.lag() == 1
        assert await mine.run_once() == 1
        assert await mine.position() == (await store.read_all())[-1].position
    assert await total(dsn) == 6


async def test_any_number_of_projectors_and_any_size_of_page_give_the_same(dsn: str, store: EventStore) -> None:
    async def follow(limit: int) -> None:
        async with projector(store, dsn) as mine:
            while await total(dsn) < 80:
                await mine.run_once(limit)

    async with projector(store, dsn) as mine:
        await mine.create()
    async with asyncio.TaskGroup() as tasks:
        for limit in (1, 2, 3, 100):
            tasks.create_task(follow(limit))
        for stream in ("a", "b", "c", "d"):
            tasks.create_task(sell(store, stream, 20))
    assert await total(dsn) == 80


async def test_what_a_handler_refuses_has_not_happened_and_run_tells_and_goes_on(
    dsn: str, store: EventStore, until: Until
) -> None:
    broken, told = True, asyncio.Event()

    async def fail_at_three(tx: Connection, event: Recorded) -> None:
        await sold(tx, event)
        if broken and event.version == 3:
            raise ConnectionResetError("three")

    def tell(error: Exception) -> None:
        assert isinstance(error, ConnectionResetError)
        told.set()

    await sell(store, "hat", 5)
    async with projector(store, dsn, handlers={"sold": fail_at_three}) as mine:
        await mine.create()
        assert await mine.run_once(2) == 2
        before = await mine.position()
        with pytest.raises(ConnectionResetError):
            await mine.run_once()
        assert (await mine.position(), await total(dsn)) == (before, 2)
        running = asyncio.create_task(mine.run(on_error=tell, every=0.002))
        await told.wait()
        broken = False

        async def caught_up() -> bool:
            return await total(dsn) == 5

        await until(caught_up)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


PROJECTOR = """
import asyncio, sys
from faultline.patterns import EventStore, Projector
from tests.patterns.test_projector import make, sold

async def main():
    async with EventStore(sys.argv[1]) as store:
        async with Projector(store, sys.argv[1], name="sales", create=make, handlers={"sold": sold}) as mine:
            print("up", flush=True)
            while True:
                await mine.run_once(3)

asyncio.run(main())
"""


async def test_projectors_killed_anywhere_lose_nothing_and_double_nothing(
    dsn: str, store: EventStore, until: Until
) -> None:
    async with projector(store, dsn) as mine:
        await mine.create()
        await asyncio.gather(*(sell(store, stream, 100) for stream in "abc"))
        for stop in (30, 90, 150):
            process = subprocess.Popen([sys.executable, "-c", PROJECTOR, dsn], stdout=subprocess.PIPE)  # noqa: ASYNC220
            try:

                async def got_there(stop: int = stop) -> bool:
                    return await total(dsn) >= stop

                await until(got_there)
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate()
        assert await mine.lag() > 0, "it was through before it was killed"
        await catch_up(mine)
    assert await total(dsn) == 300


async def test_one_that_stops_inside_a_page_loses_it(dsn: str, store: EventStore, until: Until) -> None:
    inside, for_ever = asyncio.Event(), asyncio.Event()

    async def stop(tx: Connection, event: Recorded) -> None:
        await sold(tx, event)
        inside.set()
        await for_ever.wait()

    await sell(store, "hat", 3)
    async with projector(store, dsn) as mine, projector(store, dsn, handlers={"sold": stop}, patience=0.3) as stopped:
        await mine.create()
        task = asyncio.create_task(stopped.run_once())
        await inside.wait()
        assert await mine.run_once() == 3, "it waits until the server has ended the other's session"
        for_ever.set()
        with pytest.raises(psycopg.Error, match="idle-in-transaction"):
            await task
    assert await total(dsn) == 3


async def test_a_rebuild_gives_what_today_s_handlers_give_while_everything_goes_on(
    dsn: str, store: EventStore, until: Until
) -> None:
    async def twice(tx: Connection, event: Recorded) -> None:
        await sold(tx, event)
        await tx.execute("UPDATE totals SET sold = sold + 1 WHERE stream = %s", (event.stream,))

    appending, seen = True, list[int]()

    async def append() -> int:
        count = 0
        while appending:
            await sell(store, "new", 1, after=count)
            await asyncio.sleep(0.01)  # slower than a rebuild, or that would never catch up
            count += 1
        return count

    async def read() -> None:
        async with await connect(dsn, autocommit=True) as reader:
            while appending:
                seen.append(await one_total(reader))

    await asyncio.gather(*(sell(store, stream, 25) for stream in "abcd"))
    async with projector(store, dsn) as old, projector(store, dsn, handlers={"sold": twice}) as new:
        await old.create()
        await catch_up(old)
        background = [asyncio.create_task(append()), asyncio.create_task(read())]
        live = asyncio.create_task(old.run(on_error=lambda error: pytest.fail(str(error)), every=0.001))

        async def going() -> bool:
            return bool(seen) and seen[-1] > 100

        await until(going)
        applied = await new.rebuild(limit=20)
        live.cancel()
        await asyncio.gather(live, return_exceptions=True)
        appending = False
        appended, _ = await asyncio.gather(*background)
        await catch_up(new)
        assert await new.lag() == 0
    assert applied > 100
    assert appended
    assert seen == sorted(seen), "a reader saw it go back"
    assert min(seen) >= 100, "a reader saw tables that were empty, or half full"
    assert await schemas(dsn) == ["sales"]
    async with await connect(dsn) as reader:
        rows = await (await reader.execute("SELECT last FROM sales.totals ORDER BY stream")).fetchall()
    assert [row[0] for row in rows] == [25, 25, 25, 25, appended]


async def test_a_rebuild_that_fails_or_is_cut_leaves_everything_and_the_next_one_begins_anew(
    dsn: str, store: EventStore
) -> None:
    inside, never = asyncio.Event(), asyncio.Event()

    async def fail(tx: Connection, event: Recorded) -> None:
        await sold(tx, event)
        if event.version == 7:
            raise ConnectionResetError("seven")

    async def hang(tx: Connection, event: Recorded) -> None:
        await sold(tx, event)
        if event.version == 8:
            inside.set()
            await never.wait()

    await sell(store, "hat", 10)
    async with projector(store, dsn) as mine:
        await mine.create()
        await mine.run_once()
        before = await mine.position()
        async with projector(store, dsn, handlers={"sold": fail}) as failing:
            with pytest.raises(ConnectionResetError):
                await failing.rebuild(limit=2)
        async with projector(store, dsn, handlers={"sold": hang}) as hanging:
            task = asyncio.create_task(hanging.rebuild(limit=2))
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await total(dsn), await mine.position()) == (10, before)
        async with asyncio.timeout(20):
            assert await mine.rebuild(limit=3) == 10
        assert (await total(dsn), await mine.position()) == (10, before)
    assert await schemas(dsn) == ["sales"]


async def test_two_rebuilds_at_once_come_one_after_the_other(dsn: str, store: EventStore) -> None:
    await sell(store, "hat", 30)
    async with projector(store, dsn) as one, projector(store, dsn) as other:
        await one.create()
        assert await asyncio.gather(one.rebuild(limit=4), other.rebuild(limit=4)) == [30, 30]
        assert (await one.lag(), await total(dsn)) == (0, 30)


class Earlier(EventStore):
    """Its first page was read before the last five events came."""

    first = True

    async def read_all(self, after: Position = START, limit: int = 500) -> list[Recorded]:
        page = await super().read_all(after, limit)
        first, self.first = self.first, False
        return page[:10] if first else page


async def test_new_tables_are_never_behind_what_readers_saw(dsn: str, store: EventStore) -> None:
    await sell(store, "hat", 15)
    async with projector(store, dsn) as live, Earlier(dsn) as earlier, projector(earlier, dsn) as mine:
        await live.create()
        assert await live.run_once() == 15
        before = await live.position()
        assert await mine.rebuild() == 15
        assert (await total(dsn), await live.position()) == (15, before)


async def test_new_tables_wait_for_who_is_at_the_old_ones(dsn: str, store: EventStore, until: Until) -> None:
    inside, let_go = asyncio.Event(), asyncio.Event()

    async def hold(tx: Connection, event: Recorded) -> None:
        await sold(tx, event)
        if event.version == 15:
            inside.set()
            await let_go.wait()

    async with await connect(dsn, autocommit=True) as watch:

        async def somebody_waits() -> bool:
            asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            return await (await watch.execute(asked)).fetchone() is not None

        await sell(store, "hat", 15)
        async with (
            projector(store, dsn, handlers={"sold": hold}) as live,
            Earlier(dsn) as earlier,
            projector(earlier, dsn) as mine,
        ):
            await live.create()
            running = asyncio.create_task(live.run_once())
            await inside.wait()
            rebuilding = asyncio.create_task(mine.rebuild())
            await until(somebody_waits)
            let_go.set()
            assert await asyncio.gather(running, rebuilding) == [15, 15]
    assert await total(dsn) == 15, "readers had seen 15"


async def test_new_tables_that_are_ahead_bring_their_position(dsn: str, store: EventStore) -> None:
    await sell(store, "hat", 15)
    async with projector(store, dsn) as mine:
        await mine.create()
        assert await mine.run_once(5) == 5
        assert await mine.rebuild() == 15
        assert (await mine.lag(), await mine.run_once(), await total(dsn)) == (0, 0, 15)


async def test_it_says_what_is_missing(dsn: str, store: EventStore) -> None:
    async with projector(store, dsn) as mine, projector(store, dsn, name="none") as none:
        await mine.create()
        with pytest.raises(LookupError, match="call `create` first"):
            await none.run_once()
    with pytest.raises(ValueError, match="no schema can be named"):
        projector(store, dsn, name="n" * 51)
    with pytest.raises(ValueError, match="a patience of 0 s"):
        projector(store, dsn, patience=0)
