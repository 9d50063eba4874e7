"""PostgreSQL through a proxy that does not know its protocol."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import LiteralString

import psycopg
import pytest

from faultline.components.faults import BlackHole, Cut, Direction, Latency, PartialWrites, Refuse, Reset
from faultline.components.proxy import FaultProxy

Connection = psycopg.AsyncConnection[tuple[object, ...]]
Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
async def proxy(postgres_port: int) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", postgres_port, seed=1) as proxy:
        yield proxy


@pytest.fixture
async def direct(postgres_port: int) -> AsyncIterator[Connection]:
    async with await connect(postgres_port) as connection:
        await connection.execute("DROP TABLE IF EXISTS orders")
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        yield connection


async def connect(port: int) -> Connection:
    return await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=10
    )


async def value(connection: Connection, query: LiteralString) -> object:
    row = await (await connection.execute(query)).fetchone()
    assert row
    return row[0]


async def test_queries_work(proxy: FaultProxy) -> None:
    async with await connect(proxy.port) as connection:
        assert await value(connection, "SELECT 6 * 7") == 42
        assert await value(connection, "SELECT length(repeat('x', 5000000))") == 5_000_000
        assert len(str(await value(connection, "SELECT repeat('x', 5000000)"))) == 5_000_000

    assert proxy.counts.bytes_to_client > 5_000_000
    assert proxy.counts.round_trips == 0


async def test_a_reset_in_the_middle_of_a_query_raises(proxy: FaultProxy, direct: Connection, until: Until) -> None:
    connection = await connect(proxy.port)
    before = proxy.counts.bytes_to_server
    running = asyncio.ensure_future(value(connection, "SELECT pg_sleep(30)"))
    await until(lambda: proxy.counts.bytes_to_server > before)

    torn = proxy.add(Reset())

    with pytest.raises(psycopg.OperationalError):
        await running
    assert torn.hits == 1
    await connection.close()


async def test_an_answer_that_is_cut_off_leaves_the_work_done(proxy: FaultProxy, direct: Connection) -> None:
    """The unknown outcome: the client sees an error, the row is there."""
    connection = await connect(proxy.port)
    cut = proxy.add(Cut(0), Direction.TO_CLIENT)

    with pytest.raises(psycopg.OperationalError):
        await connection.execute("INSERT INTO orders VALUES (1)")

    assert cut.hits == 1
    assert await value(direct, "SELECT count(*) FROM orders") == 1
    await connection.close()


async def test_a_request_that_is_cut_off_leaves_nothing_done(proxy: FaultProxy, direct: Connection) -> None:
    connection = await connect(proxy.port)
    cut = proxy.add(Cut(0), Direction.TO_SERVER)

    with pytest.raises(psycopg.OperationalError):
        await connection.execute("INSERT INTO orders VALUES (1)")

    assert cut.hits == 1
    assert await value(direct, "SELECT count(*) FROM orders") == 0
    await connection.close()


async def test_latency_is_felt_on_every_query(proxy: FaultProxy, direct: Connection) -> None:
    async with await connect(proxy.port) as connection:
        usual, late = [], []
        for _ in range(7):  # in turns, so that both see the same machine
            began = time.monotonic()
            await value(connection, "SELECT 1")
            usual.append(time.monotonic() - began)
            injected = proxy.add(Latency(0.1))
            await value(connection, "SELECT 1")
            late.append(time.monotonic() - began - usual[-1])
            proxy.remove(injected)
            assert injected.hits

    assert min(late) >= 0.1
    assert median(late) >= 5 * median(usual), (usual, late)


async def test_answers_in_crumbs_are_understood(proxy: FaultProxy) -> None:
    crumbs = proxy.add(PartialWrites(3), Direction.BOTH)

    async with await connect(proxy.port) as connection:
        assert await value(connection, "SELECT 6 * 7") == 42

    assert crumbs.hits >= 4


async def test_a_black_hole_keeps_a_query_waiting_and_its_end_resets_it(proxy: FaultProxy, until: Until) -> None:
    connection = await connect(proxy.port)
    hole = proxy.add(BlackHole())
    running = asyncio.ensure_future(value(connection, "SELECT 1"))
    await until(lambda: hole.hits)
    assert not running.done()

    proxy.heal()

    with pytest.raises(psycopg.OperationalError):
        await running
    await connection.close()


async def test_refused_means_connection_refused(proxy: FaultProxy) -> None:
    closed = proxy.add(Refuse())

    with pytest.raises(psycopg.OperationalError, match=r"[Rr]efused"):
        await connect(proxy.port)

    assert closed.hits >= 1
