"""What an event store promises, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from faultline.components import Supervisor
from faultline.patterns import (
    START,
    AppendNotFirst,
    EventStore,
    Fact,
    NoTransaction,
    PatternError,
    Position,
    Recorded,
    VersionConflict,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from tests.patterns.conftest import Until

connect = psycopg.AsyncConnection.connect


@pytest.fixture
async def dsn(tmp_path: Path) -> AsyncIterator[str]:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        async with await connect(server.url) as connection:
            await connection.execute("CREATE TABLE other (number int)")
        async with EventStore(server.url) as first, EventStore(server.url) as second:
            await asyncio.gather(*(store.create() for store in (first, second) for _ in range(5)))
        yield server.url


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[EventStore]:
    async with EventStore(dsn) as store:
        yield store


def facts(*names: str) -> list[Fact]:
    return [Fact(id=name, type="said", data={"name": name}) for name in names]


async def all_of(store: EventStore, limit: int = 500) -> list[str]:
    """The ids of all events that can be read, page by page."""
    ids: list[str] = []
    after = START
    while page := await store.read_all(after, limit):
        ids += [event.id for event in page]
        after = page[-1].position
    return ids


async def ids(store: EventStore, stream: str, **which: Any) -> list[str]:
    return [event.id for event in await store.read(stream, **which)]


async def test_what_was_appended_is_read_as_it_was(store: EventStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    fact = Fact(id="a", type="order-placed", data={"cents": 5}, schema=3, headers={"causationid": "c"})
    position = await store.append("order-1", 0, [fact])
    assert await store.append("order-1", 1, facts("b", "c")) > position > START
    first, second, third = await store.read("order-1")
    assert first.recorded_at > before
    assert first == Recorded(
        "order-1", 1, "a", "order-placed", 3, {"cents": 5}, {"causationid": "c"}, first.recorded_at, position
    )
    assert [(event.id, event.version) for event in (second, third)] == [("b", 2), ("c", 3)]
    assert await ids(store, "order-1", after=2) == ["c"]
    assert await store.read_all() == [first, second, third]


async def test_of_twenty_who_expect_the_same_version_one_appends(dsn: str, store: EventStore) -> None:
    await store.append("s", 0, facts("first"))
    async with EventStore(dsn) as other:
        answers = await asyncio.gather(
            *((store, other)[n % 2].append("s", 1, facts(f"{n}", f"{n}'")) for n in range(20)), return_exceptions=True
        )
    conflicts = [answer for answer in answers if isinstance(answer, VersionConflict)]
    assert len(conflicts) == 19
    assert all((one.stream, one.expected, one.actual) == ("s", 1, 3) for one in conflicts)
    (won,) = [n for n, answer in enumerate(answers) if isinstance(answer, Position)]
    assert await ids(store, "s") == ["first", f"{won}", f"{won}'"]


@pytest.mark.parametrize("expected", [0, 2, 7])
async def test_another_version_than_expected_is_a_conflict_and_nothing_is_appended(
    store: EventStore, expected: int
) -> None:
    await store.append("s", 0, facts("a"))
    with pytest.raises(VersionConflict, match=f"s is at version 1, not {expected}"):
        await store.append("s", expected, facts("b", "c"))
    assert await ids(store, "s") == ["a"]


async def test_facts_of_one_append_are_there_all_or_not_at_all(dsn: str, store: EventStore) -> None:
    async with await connect(dsn) as tx:
        await store.append("s", 0, facts("a", "b", "c"), tx=tx)
        assert await store.read("s") == []
        async with await connect(dsn, autocommit=True) as killer:
            await killer.execute("SELECT pg_terminate_backend(%s, 5000)", (tx.info.backend_pid,))
        with suppress(psycopg.OperationalError):
            await tx.commit()
    await store.append("s", 0, facts("a", "b", "c"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await store.append("s", 3, facts("d", "b"))
    assert await ids(store, "s") == ["a", "b", "c"]


async def test_the_order_of_all_has_no_hole_though_the_first_writer_commits_last(dsn: str, store: EventStore) -> None:
    async with await connect(dsn) as slow:
        await store.append("before", 0, facts("before"))
        await store.append("slow", 0, facts("slow"), tx=slow)
        await store.append("quick", 0, facts("quick"))
        seen = await store.read_all()
        assert [event.id for event in seen] == ["before"], "a reader that goes on from here misses what is still open"
        assert await ids(store, "quick") == ["quick"], "its own stream waits for nobody"
        assert await store.behind(seen[-1].position) == 1
        await slow.commit()
    rest = await store.read_all(seen[-1].position)
    assert sorted(event.id for event in rest) == ["quick", "slow"]
    assert await store.behind(rest[-1].position) == 0


async def test_who_has_a_number_already_would_come_before_what_he_appends_to(dsn: str, store: EventStore) -> None:
    async with await connect(dsn) as tx:
        await tx.execute("INSERT INTO other VALUES (1)")  # its transaction has a number from here
        await store.append("s", 0, facts("first"))
        with pytest.raises(AppendNotFirst):
            await store.append("s", 1, facts("second"), tx=tx)
        await tx.commit()  # it can still be, without the event
    await store.append("s", 1, facts("second"))
    assert await all_of(store) == ["first", "second"]

    async with await connect(dsn) as tx:
        await store.append("a", 0, facts("a"), tx=tx)
        await store.append("b", 0, facts("b"))
        with pytest.raises(AppendNotFirst):
            await store.append("b", 1, facts("b'"), tx=tx)
        await tx.commit()
    assert await ids(store, "b") == ["b"]


async def test_who_lost_inside_a_transaction_cannot_decide_again_there(
    dsn: str, store: EventStore, until: Until
) -> None:
    async with await connect(dsn) as tx:
        await tx.execute("SELECT")
        rival = asyncio.create_task(store.append("s", 0, facts("theirs")))
        await rival
        with pytest.raises(VersionConflict):
            await store.append("s", 0, facts("mine"), tx=tx)
        await store.append("s", 1, facts("mine"), tx=tx)  # nothing was written: the number is still to come
        await tx.commit()
    async with await connect(dsn) as holder, await connect(dsn) as tx:
        await store.append("t", 0, facts("held"), tx=holder)
        late = asyncio.create_task(store.append("t", 0, facts("late"), tx=tx))
        async with await connect(dsn, autocommit=True) as watch:

            async def waits() -> bool:
                asked = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
                return await (await watch.execute(asked, (tx.info.backend_pid,))).fetchone() is not None

            await until(waits)
        await holder.commit()
        with pytest.raises(VersionConflict, match="t is at version 1, not 0"):
            await late
        with pytest.raises(AppendNotFirst):
            await store.append("t", 1, facts("late"), tx=tx)
    assert await all_of(store) == ["theirs", "mine", "held"]


async def write_one(store: EventStore, tx: psycopg.AsyncConnection, random: Random, name: str) -> int:
    """Append one to three facts to some stream, in a transaction that does more; returns how many."""
    stream = f"s{random.randrange(4)}"
    names = [f"{name}:{part}" for part in range(random.randrange(1, 4))]
    while True:
        try:
            await store.append(stream, len(await store.read(stream)), facts(*names), tx=tx)
        except VersionConflict:
            await tx.rollback()
            continue
        await tx.execute("INSERT INTO other VALUES (1)")
        await asyncio.sleep(random.random() * 0.002)  # so that commits come out of order
        await tx.commit()
        return len(names)


async def test_readers_beside_writers_miss_nothing_double_nothing_and_keep_each_stream_in_order(
    dsn: str, store: EventStore
) -> None:
    seed = 5
    writing, written = True, 0

    async def write(number: int) -> None:
        nonlocal written
        random = Random(seed + number)
        async with await connect(dsn) as connection:
            for count in range(15):
                more = await write_one(store, connection, random, f"{number}:{count}")
                written += more

    async def follow(limit: int) -> list[Recorded]:
        seen: list[Recorded] = []
        while True:
            done = not writing
            page = await store.read_all(seen[-1].position if seen else START, limit)
            seen += page
            if done and not page:
                return seen

    readers = [asyncio.create_task(follow(limit)) for limit in (7, 500)]
    await asyncio.gather(*(write(number) for number in range(8)))
    writing = False
    logs = await asyncio.gather(*readers)
    assert [len(log) for log in logs] == [written] * 2, f"seed {seed}"
    assert logs[0] == logs[1]
    assert all(one.position < other.position for one, other in pairwise(logs[0]))
    for stream in ("s0", "s1", "s2", "s3"):
        versions = [event.version for event in logs[0] if event.stream == stream]
        assert versions == list(range(1, len(versions) + 1)), f"seed {seed}"


async def test_the_same_facts_again_are_answered_as_the_first_time(dsn: str, store: EventStore) -> None:
    position = await store.append("s", 0, facts("a", "b"))
    await store.append("s", 2, facts("c"))
    assert await store.append("s", 0, facts("a", "b")) == position
    async with await connect(dsn) as tx:
        assert await store.append("s", 0, facts("a", "b"), tx=tx) == position
    answers = await asyncio.gather(*(store.append("t", 0, facts("x", "y")) for _ in range(10)))
    assert len(set(answers)) == 1
    assert await all_of(store) == ["a", "b", "c", "x", "y"]


async def test_an_id_of_another_event_is_no_repetition(store: EventStore) -> None:
    await store.append("s", 0, facts("a", "b"))
    for stream, expected, names in (("s", 0, "a"), ("s", 0, "ba"), ("s", 1, "ab"), ("t", 0, "a"), ("s", 2, "b")):
        if (stream, expected, names) == ("s", 0, "a"):
            assert await store.append(stream, expected, facts(*names))
            continue
        with pytest.raises((VersionConflict, psycopg.errors.UniqueViolation)):
            await store.append(stream, expected, facts(*names))
    assert await all_of(store) == ["a", "b"]


@pytest.mark.parametrize(
    "change", ["UPDATE events SET data = '{}'", "DELETE FROM events WHERE version = 1", "TRUNCATE events"]
)
async def test_history_is_not_changed_even_by_its_owner(dsn: str, store: EventStore, change: str) -> None:
    await store.append("s", 0, facts("a"))
    before = await store.read("s")
    async with await connect(dsn, autocommit=True) as owner:
        with pytest.raises(psycopg.errors.RestrictViolation, match="events are history"):
            await owner.execute(change.encode())
    assert await store.read("s") == before


async def test_a_stream_as_of_a_moment_is_what_it_was_then_though_the_clock_goes_back(
    dsn: str, store: EventStore
) -> None:
    async with await connect(dsn, autocommit=True) as server:
        await store.append("s", 0, facts("a"))
        await server.execute(  # recorded while the server's clock was an hour ahead
            "INSERT INTO events (stream, version, id, type, schema, data, headers, recorded_at)"
            " VALUES ('s', 2, 'ahead', 'said', 1, '{}', '{}', clock_timestamp() + interval '1 hour')"
        )
    await store.append("s", 2, facts("b"))
    first, ahead, last = await store.read("s")
    assert last.recorded_at == ahead.recorded_at
    hair = timedelta(microseconds=1)
    for moment, there in (
        (first.recorded_at - hair, []),
        (first.recorded_at, ["a"]),
        (ahead.recorded_at - hair, ["a"]),
        (ahead.recorded_at.astimezone(), ["a", "ahead", "b"]),
    ):
        assert await ids(store, "s", until=moment) == there
    with pytest.raises(ValueError, match="without a time zone"):
        await store.read("s", until=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_an_append_is_part_of_the_transaction_that_it_is_given(dsn: str, store: EventStore) -> None:
    async with await connect(dsn) as tx:
        await store.append("s", 0, facts("undone"), tx=tx)
        await tx.execute("INSERT INTO other VALUES (1)")
        await tx.rollback()
        await store.append("s", 0, facts("kept"), tx=tx)
        await tx.execute("INSERT INTO other VALUES (2)")
        assert await store.read("s") == []
        await tx.commit()
        assert await ids(store, "s") == ["kept"]
        row = await (await tx.execute("SELECT array_agg(number) FROM other")).fetchone()
        assert row == ([2],)
    async with await connect(dsn, autocommit=True) as tx:
        with pytest.raises(NoTransaction):
            await store.append("s", 1, facts("alone"), tx=tx)
        async with tx.transaction():
            await store.append("s", 1, facts("together"), tx=tx)
    assert await ids(store, "s") == ["kept", "together"]


async def test_a_subscription_goes_on_from_where_it_was_and_waits_for_what_comes(
    dsn: str, store: EventStore, until: Until
) -> None:
    heard: list[Recorded] = []

    async def hear(after: Position) -> None:
        async for event in store.subscribe(after, every=0.002, limit=2):
            heard.append(event)  # noqa: PERF401 - there is no end

    def has(count: int) -> Any:
        async def enough() -> bool:
            return len(heard) >= count

        return enough

    await store.append("s", 0, facts("a", "b", "c"))
    task = asyncio.create_task(hear(START))
    await until(has(3))
    await store.append("s", 3, facts("d"))
    await until(has(4))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    task = asyncio.create_task(hear(heard[1].position))
    await until(has(6))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [event.id for event in heard] == ["a", "b", "c", "d", "c", "d"]


async def test_an_append_is_one_statement_and_a_conflict_two_more(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, statements = psycopg.AsyncConnection.execute, list[str]()

    async def count(self: Any, query: Any, *args: Any, **more: Any) -> Any:
        statements.append(str(query).split()[0])
        return await execute(self, query, *args, **more)

    await store.read("s")  # opens the connection
    monkeypatch.setattr(psycopg.AsyncConnection, "execute", count)
    await store.append("s", 0, facts("a", "b", "c"))
    assert statements == ["WITH"]
    with pytest.raises(VersionConflict):
        await store.append("s", 0, facts("d"))
    assert statements[1:] == ["WITH", "SELECT", "SELECT"]


async def test_making_the_table_again_waits_for_no_writer(dsn: str, store: EventStore) -> None:
    async with await connect(dsn) as tx:
        await store.append("s", 0, facts("a"), tx=tx)
        async with asyncio.timeout(20):
            await store.create()
        await tx.commit()
    assert await all_of(store) == ["a"]


async def test_old_events_are_read_as_todays_and_stay_as_they_are(dsn: str, store: EventStore) -> None:
    def split(old: Recorded) -> Iterable[Recorded]:
        for part in old.data["name"]:
            yield replace(old, schema=2, data={"name": part})

    async def stored() -> list[Any]:
        async with await connect(dsn) as connection:
            return await (await connection.execute("SELECT md5(events::text) FROM events ORDER BY id")).fetchall()

    await store.append("s", 0, facts("xy", "z"))
    before = await stored()
    async with EventStore(dsn, upcasters={("said", 1): split}) as today:
        events = await today.read("s")
        assert [(event.id, event.version) for event in events] == [("xy/1", 1), ("xy/2", 1), ("z", 2)]
        assert await today.read_all() == events
        assert await today.append("s", 2, facts("w"))
    assert set(before) < set(await stored())


@pytest.mark.parametrize(
    ("stream", "expected", "what"),
    [
        ("s", 0, []),
        ("", 0, facts("a")),
        ("s", -1, facts("a")),
        ("s", 0, facts("")),
        ("s", 0, [Fact(id="a", type="", data={})]),
    ],
)
async def test_it_refuses_nonsense(store: EventStore, stream: str, expected: int, what: list[Fact]) -> None:
    with pytest.raises(ValueError, match="nothing to append"):
        await store.append(stream, expected, what)
    assert issubclass(AppendNotFirst, PatternError)
