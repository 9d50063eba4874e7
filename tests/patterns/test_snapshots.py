"""What snapshots promise: the same state as without them, from fewer events."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from faultline.components import Supervisor
from faultline.patterns import EventStore, Fact, Loaded, Recorded, Snapshots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Numbers = tuple[int, ...]


@pytest.fixture
async def dsn(tmp_path: Path) -> AsyncIterator[str]:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        yield (await supervisor.start("postgres", settings={"fsync": False})).url


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[EventStore]:
    async with EventStore(dsn) as store:
        await store.create()
        yield store


def evolve(state: Numbers, event: Recorded) -> Numbers:
    """So that a lost, doubled or reordered event shows."""
    return (*state[-3:], event.data["number"] * 31 + hash(state) % 1000)


def restore(kept: Any) -> Numbers:
    return tuple(int(number) for number in kept["numbers"])


def snapshots(store: EventStore, dsn: str, **settings: Any) -> Snapshots[Numbers]:
    return Snapshots(
        store,
        dsn,
        **{
            "initial": tuple,
            "evolve": evolve,
            "dump": lambda state: {"numbers": state},
            "restore": restore,
            "schema": 1,
            "every": 10,
        }
        | settings,
    )


async def append(store: EventStore, stream: str, after: int, count: int) -> None:
    numbers = range(after + 1, after + count + 1)
    await store.append(
        stream, after, [Fact(id=f"{stream}-{n}", type="n", data={"number": n * len(stream)}) for n in numbers]
    )


async def execute(dsn: str, statement: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        return (await connection.execute(statement.encode())).rowcount


async def test_with_snapshots_it_is_the_same_state_from_at_most_so_many_events(dsn: str, store: EventStore) -> None:
    seed = 3
    random = Random(seed)
    async with snapshots(store, dsn) as mine:
        await mine.create()
        await mine.create()
        for history in range(10):
            stream, length, kept, state = f"s{history}", 0, 0, ()
            for _ in range(random.randrange(20)):
                loaded = await mine.load(stream)
                assert (loaded.version, loaded.state) == (length, state), f"seed {seed}"
                assert loaded.read <= 10 + 3 - 1, f"seed {seed}"
                kept += await mine.maybe_snapshot(stream, loaded)
                count = random.randrange(1, 4)
                await append(store, stream, length, count)
                length += count
                state = ()
                for event in await store.read(stream):
                    state = evolve(state, event)
            assert kept == length // 12 or kept in range(length // 13, length // 10 + 1), f"seed {seed}"


async def test_it_keeps_one_only_when_it_was_worth_it(dsn: str, store: EventStore) -> None:
    async with snapshots(store, dsn) as mine:
        await mine.create()
        await append(store, "s", 0, 9)
        assert not await mine.maybe_snapshot("s", await mine.load("s"))
        await append(store, "s", 9, 1)
        full = await mine.load("s")
        assert (full.read, await mine.maybe_snapshot("s", full)) == (10, True)
        assert await mine.load("s") == Loaded(full.state, 10, 0)
        await append(store, "s", 10, 2)
        assert (await mine.load("s")).read == 2


async def test_what_another_fold_has_kept_is_not_used_and_both_live_side_by_side(dsn: str, store: EventStore) -> None:
    def sum_up(state: Numbers, event: Recorded) -> Numbers:
        return (sum(state) + event.data["number"],)

    await append(store, "s", 0, 20)
    async with snapshots(store, dsn) as old, snapshots(store, dsn, schema=2, evolve=sum_up) as new:
        await old.create()
        before = await old.load("s")
        assert await old.maybe_snapshot("s", before)
        folded = await new.load("s")
        assert folded == Loaded((210,), 20, 20)
        assert await new.maybe_snapshot("s", folded)
        assert await new.load("s") == Loaded((210,), 20, 0)
        assert await old.load("s") == Loaded(before.state, 20, 0)


@pytest.mark.parametrize("spoilt", ["{}", "[]", '{"numbers": ["x"]}', "null"])
async def test_a_spoilt_snapshot_is_as_good_as_none(
    dsn: str, store: EventStore, spoilt: str, caplog: pytest.LogCaptureFixture
) -> None:
    await append(store, "s", 0, 20)
    async with snapshots(store, dsn) as mine:
        await mine.create()
        right = await mine.load("s")
        await mine.maybe_snapshot("s", right)
        assert await execute(dsn, f"UPDATE snapshots SET state = '{spoilt}'") == 1
        with caplog.at_level(logging.WARNING):
            assert await mine.load("s") == right
        assert "a snapshot of s, schema 1, is spoilt" in caplog.text
        assert await execute(dsn, "DELETE FROM snapshots") == 1
        assert await mine.load("s") == right


async def test_a_slow_writer_does_not_put_an_older_one_in_its_place(dsn: str, store: EventStore) -> None:
    await append(store, "s", 0, 10)
    async with snapshots(store, dsn) as quick, snapshots(store, dsn) as slow:
        await quick.create()
        early = await slow.load("s")
        await append(store, "s", 10, 10)
        late = await quick.load("s")
        assert await quick.maybe_snapshot("s", late)
        assert not await slow.maybe_snapshot("s", early)
        assert await slow.load("s") == Loaded(late.state, 20, 0)


async def test_each_stream_has_its_own(dsn: str, store: EventStore) -> None:
    async with snapshots(store, dsn) as mine:
        await mine.create()
        for stream, count in (("a", 12), ("bb", 10)):
            await append(store, stream, 0, count)
            loaded = await mine.load(stream)
            assert loaded.read == count
            assert await mine.maybe_snapshot(stream, loaded)
            assert await mine.load(stream) == Loaded(loaded.state, count, 0)
        assert (await mine.load("a")).state != (await mine.load("bb")).state
    with pytest.raises(ValueError, match="no snapshot of every 0"):
        snapshots(store, dsn, every=0)
