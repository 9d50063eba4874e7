"""What a storage promises that compares tokens where it writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from psycopg import AsyncConnection
from redis.exceptions import ResponseError

from faultline.components import Supervisor
from faultline.patterns import DistributedLock, Fence
from faultline.patterns.fence import POSTGRES_ADMIT, POSTGRES_MINT, POSTGRES_TABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis


async def test_a_late_holder_writes_nothing(redis: Redis) -> None:
    fence = Fence(redis, "stock")
    late = await DistributedLock([redis], "sale", 0.1).acquire(5)
    holder = await DistributedLock([redis], "sale", 60.0).acquire(5)

    assert await fence.admit(late.token, "SET", "units", 50)
    assert await fence.admit(holder.token, "SET", "units", 49)
    assert await fence.admit(late.token, "SET", "units", 48) is False
    assert await fence.admit(holder.token, "DECRBY", "units", 1)
    assert await redis.get("units") == b"48"


async def test_it_remembers_without_a_command_too(redis: Redis) -> None:
    fence = Fence(redis, "stock")
    assert await fence.admit(7)
    assert await Fence(redis, "prices").admit(3)
    assert await fence.admit(6) is False
    assert await fence.admit(10**15)
    assert await fence.admit(10**15 - 1) is False


async def test_a_write_that_fails_is_not_remembered(redis: Redis) -> None:
    fence = Fence(redis, "stock")
    await redis.set("units", "many")
    with pytest.raises(ResponseError):
        await fence.admit(9, "INCR", "units")
    assert await fence.admit(8, "SET", "units", 1)


async def test_of_many_writes_the_last_token_stays(redis: Redis) -> None:
    fence = Fence(redis, "stock")
    async with asyncio.TaskGroup() as group:
        for token in (5, 3, 9, 1, 7, 2, 8):
            group.create_task(fence.admit(token, "SET", "writer", token))
    assert await redis.get("writer") == b"9"


def test_a_fence_needs_a_name(redis: Redis) -> None:
    with pytest.raises(ValueError, match="name"):
        Fence(redis, "")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[str]:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        server = await supervisor.start("postgres")
        async with await AsyncConnection.connect(server.url, autocommit=True) as connection:
            await connection.execute(POSTGRES_TABLE)
            await connection.execute("CREATE TABLE stock (writer int)")
        yield server.url


async def test_postgres_admits_no_smaller_token_and_nobody_overtakes(database: str) -> None:
    async with await AsyncConnection.connect(database) as early, await AsyncConnection.connect(database) as late:

        async def write(connection: AsyncConnection, token: int) -> bool:
            admitted = await connection.execute(POSTGRES_ADMIT, {"name": "stock", "token": token})
            return await admitted.fetchone() is not None

        assert await write(late, 2)
        waiting = asyncio.create_task(write(early, 1))  # blocked by the row, until the larger token is there
        await late.execute("INSERT INTO stock VALUES (2)")
        assert not waiting.done()
        await late.commit()
        assert await waiting is False
        await early.rollback()
        assert await write(early, 2)


async def test_postgres_mints_tokens_that_refuse_all_before(database: str) -> None:
    async with await AsyncConnection.connect(database, autocommit=True) as connection:

        async def one(query: str, **values: object) -> object:
            row = await (await connection.execute(query.encode(), {"name": "stock", **values})).fetchone()
            return row and row[0]

        assert await one(POSTGRES_ADMIT, token=41) == 41
        assert await one(POSTGRES_MINT) == 42
        assert await one(POSTGRES_ADMIT, token=41) is None
        assert await one(POSTGRES_ADMIT, token=42) == 42
        assert await one(POSTGRES_MINT) == 43
