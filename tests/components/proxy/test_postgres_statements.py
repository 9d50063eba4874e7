"""PostgreSQL through a proxy that reads its protocol: statements are counted, held and told apart."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultline.components import Supervisor
from faultline.components.proxy import Counts, FaultProxy, named, saying
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.postgres_conversation import PostgresConversation

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
PATIENCE = 20.0


@pytest.fixture
async def proxy(postgres_port: int) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", postgres_port, seed=1, protocol="postgres") as proxy:
        yield proxy


@pytest.fixture
async def direct(postgres_port: int) -> AsyncIterator[Connection]:
    async with await connect(postgres_port) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY, sku text)")
        yield connection


async def connect(port: int, *, autocommit: bool = True) -> Connection:
    return await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=port, user="postgres", dbname="postgres", autocommit=autocommit, connect_timeout=10
    )


async def test_statements_and_round_trips_are_counted(proxy: FaultProxy, direct: Connection) -> None:
    async with await connect(proxy.port, autocommit=False) as connection:
        await connection.execute("SELECT 1")
        assert [str(one).partition(" ")[2] for one in proxy.commands] == ["BEGIN", "SELECT 1"]
        await connection.commit()
        before = proxy.counts
        assert (before.requests, before.round_trips, before.handshakes) == (3, 3, 1)

        async with connection.cursor() as cursor:
            await cursor.executemany("INSERT INTO orders VALUES (%s, %s)", [(n, "hat") for n in range(50)])
        await connection.commit()

        spent = proxy.counts - before
        assert spent.requests == 52, "BEGIN, fifty INSERTs, COMMIT"
        assert spent.round_trips < 10, "psycopg sends them as a pipeline"
    assert proxy.counts.unread == 0


async def test_copy_and_errors_and_notifications_are_kept_in_step(proxy: FaultProxy, direct: Connection) -> None:
    async with await connect(proxy.port) as connection:
        async with connection.cursor() as cursor, cursor.copy("COPY orders FROM STDIN") as copy:
            for number in range(1000):
                await copy.write_row((number, "hat" * 100))
        async with connection.cursor() as cursor, cursor.copy("COPY orders TO STDOUT") as copy:
            assert len([row async for row in copy.rows()]) == 1000
        with pytest.raises(psycopg.errors.UniqueViolation):
            await connection.execute("INSERT INTO orders VALUES (%s, 'hat')", (1,))
        with pytest.raises(psycopg.errors.SyntaxError):
            await connection.execute("SELECT FROM FROM %s", (1,))
        await connection.execute("LISTEN news")
        await direct.execute("NOTIFY news")
        async for _ in connection.notifies(stop_after=1, timeout=PATIENCE):
            pass

        before = proxy.counts
        held = proxy.hold_reply(named("SELECT"))
        asked = asyncio.create_task(connection.execute("SELECT 7"))
        await held.reached(PATIENCE)
        held.release()
        assert await (await asked).fetchone() == (7,)

        spent = proxy.counts - before
        assert (spent.requests, spent.round_trips) == (1, 1)
        assert proxy.counts.pushes == 1
        assert proxy.counts.unread == 0


@pytest.mark.parametrize("parameters", [None, ("hat",)])
async def test_a_held_statement_has_not_happened_and_a_held_answer_has(
    proxy: FaultProxy, direct: Connection, parameters: tuple[str] | None
) -> None:
    statement = "INSERT INTO orders VALUES (1, %s)" if parameters else "INSERT INTO orders VALUES (1, 'hat')"
    async with await connect(proxy.port, autocommit=False) as connection:
        held = proxy.hold(saying("insert", "orders"))
        answer = proxy.hold_reply(named("commit"))

        async def write() -> None:
            await connection.execute(statement, parameters)
            await connection.commit()

        writing = asyncio.create_task(write())
        await held.reached(PATIENCE)
        await rows(direct, "SELECT 1")  # had the statement gone on, it would be there before this
        assert await rows(direct, "SELECT 1 FROM pg_locks WHERE relation = 'orders'::regclass") == []
        held.release()
        await answer.reached(PATIENCE)
        assert await rows(direct, "SELECT id FROM orders") == [(1,)], "the server has committed"
        done, _ = await asyncio.wait([writing], timeout=0.05)
        assert not done, "and the client does not know it"
        answer.release()
        await writing


async def test_a_barrier_lets_statements_go_when_all_are_there(proxy: FaultProxy, direct: Connection) -> None:
    connections = [await connect(proxy.port) for _ in range(8)]
    barrier = proxy.barrier(8, named("INSERT"))
    asked = [
        asyncio.create_task(connection.execute("INSERT INTO orders VALUES (%s, 'hat')", (number,)))
        for number, connection in enumerate(connections)
    ]
    await barrier.met(PATIENCE)
    await asyncio.gather(*asked)
    assert await rows(direct, "SELECT count(*) FROM orders") == [(8,)]
    for connection in connections:
        await connection.close()


async def test_a_replica_streams_through_it_unread(
    proxy: FaultProxy, direct: Connection, supervisor: Supervisor
) -> None:
    replica = await supervisor.start("postgres", settings={"fsync": False, "replica_of": proxy})
    async with await connect(replica.port) as reader:
        await direct.execute("INSERT INTO orders VALUES (1, 'hat')")
        async with asyncio.timeout(PATIENCE):
            while await rows(reader, "SELECT id FROM orders") != [(1,)]:  # noqa: ASYNC110 -- no event for it
                await asyncio.sleep(0.001)
    assert proxy.counts.unread >= 1


async def rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query)).fetchall()  # type: ignore[arg-type]  # ours, not a learner's


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def untyped(body: bytes) -> bytes:
    return frame(b"", body)


READY = frame(b"Z", b"I")
DONE = frame(b"C", b"SELECT 1\0")
EXECUTED = (
    frame(b"P", b"\0SELECT $1\0\0\0") + frame(b"B", b"\0\0" + bytes(8)) + frame(b"E", b"\0" + bytes(4)) + frame(b"S")
)
STEPS = [
    (untyped((80877103).to_bytes(4, "big")), b"N"),
    (untyped((196608).to_bytes(4, "big") + b"user\0me\0\0"), frame(b"R", bytes(4)) + frame(b"S", b"a\0b\0") + READY),
    (frame(b"Q", b"BEGIN\0"), frame(b"N", b"odd\0") + DONE + READY),
    (EXECUTED, frame(b"1") + frame(b"2") + frame(b"D", bytes(5000)) + DONE + READY),
    (EXECUTED * 3, (frame(b"1") + frame(b"2") + DONE + READY) * 3),
    (frame(b"P", b"s\0SELECT 1\0\0\0") + frame(b"D", b"Ss\0") + frame(b"S"), frame(b"1") + frame(b"t") + READY),
    (EXECUTED, frame(b"E", b"no\0") + READY),
    (EXECUTED, frame(b"1") + frame(b"2") + frame(b"G", b"\0\0\0")),
    (frame(b"d", b"1\n") * 3 + frame(b"c") + frame(b"S"), DONE + READY),
    (frame(b"Q", b"SELECT 1; SELECT 2\0"), frame(b"A", bytes(9)) + DONE + DONE + READY),
    (frame(b"X"), b""),
]
EXPECTED = Counts(requests=8, round_trips=7, handshakes=1, handshake_round_trips=1, pushes=1)


@given(st.integers(0, 2**32))
def test_any_split_gives_the_same_counts(seed: int) -> None:
    chance, ledger = Random(seed), Ledger()
    conversation = PostgresConversation(1, ledger)
    for sent, answer in STEPS:
        for chunk in split(chance, sent):
            assert b"".join(piece.data for piece in conversation.from_client(chunk, 0.0)) == chunk
        for chunk in split(chance, answer):
            pieces = conversation.from_server(chunk, 0.0)
            assert b"".join(piece.data for piece in pieces) == chunk
            for piece in pieces:
                conversation.passed_on(piece.answers or [])
    assert ledger.tally.counts() == EXPECTED


def split(chance: Random, data: bytes) -> list[bytes]:
    cuts = sorted(chance.sample(range(1, len(data)), min(len(data) - 1, chance.randrange(6)))) if len(data) > 1 else []
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]
