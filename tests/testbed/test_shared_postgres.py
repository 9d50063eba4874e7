"""One PostgreSQL for the checks of a run: a database for each, a server for the first that asks, none for nobody."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psycopg
import pytest

from faultline.components import Clone
from faultline.components.records import read
from faultline.testbed import Testbed, TestbedError
from faultline.testbed.postgres import SharedPostgres

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]


async def test_each_check_has_a_database_of_its_own_on_one_server(tmp_path: Path) -> None:
    async with SharedPostgres(tmp_path / "shared", Clone.here()) as shared:
        mine, yours = await asyncio.gather(shared.database(), shared.database())
        for database, units in ((mine, 3), (yours, 5)):
            await database.script(f"CREATE TABLE stock (units int); INSERT INTO stock VALUES ({units})")

        assert await mine.truth("SELECT units FROM stock") == [(3,)]
        async with await psycopg.AsyncConnection.connect(yours.at()) as connection:
            assert await (await connection.execute("SELECT units FROM stock")).fetchall() == [(5,)]
        assert mine.server.port == yours.server.port
        assert len(read(tmp_path / "shared")) == 1
        for database in (mine, yours):
            await database.close()


async def test_nobody_asked_and_no_server_was_started(tmp_path: Path) -> None:
    async with SharedPostgres(tmp_path / "shared", Clone.here()):
        assert not read(tmp_path / "shared")


async def test_the_server_ends_with_the_run(tmp_path: Path) -> None:
    async with SharedPostgres(tmp_path / "shared", Clone.here()) as shared:
        database = await shared.database()
        await database.truth("SELECT 1")
        await database.close()

    with pytest.raises(psycopg.OperationalError, match="refused"):
        await database.truth("SELECT 1")


async def test_a_testbed_outside_a_run_says_so(on_testbed: OnTestbed) -> None:
    async with on_testbed("") as testbed:
        with pytest.raises(TestbedError, match="shares no PostgreSQL"):
            await testbed.database()
