"""What an inbox promises, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from faultline.components import Supervisor
from faultline.patterns import Inbox, NoTransaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    Connection = psycopg.AsyncConnection[tuple[object, ...]]


@pytest.fixture
async def dsn(tmp_path: Path) -> AsyncIterator[str]:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            await connection.execute("CREATE TABLE effect (number int PRIMARY KEY)")
            await connection.execute("CREATE TABLE called (number int)")
        async with Inbox(server.url) as first, Inbox(server.url) as second:
            await asyncio.gather(*(inbox.create() for inbox in (first, second) for _ in range(5)))
        yield server.url


@pytest.fixture
async def inbox(dsn: str) -> AsyncIterator[Inbox]:
    async with Inbox(dsn) as inbox:
        yield inbox


async def count(tx: Connection) -> None:
    await tx.execute("INSERT INTO called VALUES (1)")


async def called(dsn: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (await connection.execute("SELECT count(*) FROM called")).fetchone()
    assert row
    return int(row[0])


async def test_twenty_deliveries_at_once_have_one_effect(dsn: str) -> None:
    async with Inbox(dsn) as mine, Inbox(dsn, connections=3) as yours:
        answers = await asyncio.gather(*(inbox.process("m", count) for inbox in (mine, yours) for _ in range(10)))
    assert (sum(answers), await called(dsn)) == (1, 1)


async def test_consumers_of_two_names_see_it_once_each(dsn: str) -> None:
    async with Inbox(dsn, consumer="a") as a, Inbox(dsn, consumer="b") as b:
        assert [await one.process("m", count) for one in (a, b, a, b)] == [True, True, False, False]
        assert [await a.forget(3600), await a.forget(0)] == [0, 1]
        assert [await one.process("m", count) for one in (a, b)] == [True, False]


async def test_a_failed_handler_has_done_nothing_and_the_message_may_come_again(dsn: str, inbox: Inbox) -> None:
    async def fail(tx: Connection) -> None:
        await count(tx)
        raise ConnectionResetError("later")

    with pytest.raises(ConnectionResetError):
        await inbox.process("m", fail)
    assert await called(dsn) == 0
    assert await inbox.process("m", count) is True
    assert await called(dsn) == 1


async def test_a_cancelled_handler_has_done_nothing_and_holds_nothing(dsn: str, inbox: Inbox) -> None:
    inside = asyncio.Event()

    async def stay(tx: Connection) -> None:
        await count(tx)
        inside.set()
        await asyncio.Event().wait()

    staying = asyncio.create_task(inbox.process("m", stay))
    await inside.wait()
    second = asyncio.create_task(inbox.process("m", count))
    staying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await staying
    async with asyncio.timeout(10):
        assert await second is True
    assert await called(dsn) == 1


async def test_a_swallowed_error_is_not_taken_for_success(dsn: str, inbox: Inbox) -> None:
    async def swallow(tx: Connection) -> None:
        await count(tx)
        with suppress(psycopg.Error):
            await tx.execute("SELECT 1 / 0")

    with pytest.raises(NoTransaction):
        await inbox.process("m", swallow)
    assert await inbox.process("m", count) is True
    assert await called(dsn) == 1


async def test_a_handler_cannot_commit_by_itself(dsn: str, inbox: Inbox) -> None:
    async def commit(tx: Connection) -> None:
        await count(tx)
        await tx.commit()

    with pytest.raises(psycopg.ProgrammingError):
        await inbox.process("m", commit)
    assert await called(dsn) == 0


CONSUMER = """
import asyncio, sys
from faultline.patterns import Inbox

async def work(tx):
    await tx.execute("INSERT INTO called VALUES (1)")
    print("inside", flush=True)
    await asyncio.Event().wait()

async def main():
    async with Inbox(sys.argv[1], patience=0.5) as inbox:
        await inbox.process("m", work)

asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_consumer_that_is_killed_or_stops_inside_leaves_the_message_to_the_next(
    dsn: str, inbox: Inbox, end: signal.Signals
) -> None:
    process = subprocess.Popen([sys.executable, "-c", CONSUMER, dsn], stdout=subprocess.PIPE)  # noqa: ASYNC220
    try:
        assert process.stdout
        assert await asyncio.to_thread(process.stdout.readline) == b"inside\n"
        process.send_signal(end)
        async with asyncio.timeout(20):
            assert await inbox.process("m", count) is True
    finally:
        process.kill()
        process.communicate()
    assert await called(dsn) == 1


async def test_connections_are_kept_and_dead_ones_are_not_used(dsn: str, inbox: Inbox) -> None:
    pids: list[object] = []

    async def who(tx: Connection) -> None:
        pids.append(tx.info.backend_pid)

    for message in ("a", "b"):
        await inbox.process(message, who)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pids[1]])
    assert await inbox.process("c", who) is True
    assert pids[0] == pids[1] != pids[2]
