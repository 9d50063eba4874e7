"""What a service's own database promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from faultline.components import Supervisor
from faultline.shop import database
from faultline.shop.errors import MigrationChanged

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        yield (await supervisor.start("postgres", settings={"fsync": False})).url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "001_first.sql").write_text("CREATE TABLE first (id int); INSERT INTO first VALUES (1);")
    (folder / "002_second.sql").write_text("INSERT INTO first VALUES (2);")
    return folder


async def found(dsn: str) -> list[tuple[int]]:
    async with await psycopg.AsyncConnection[tuple[int]].connect(dsn) as connection:
        return await (await connection.execute("SELECT id FROM first ORDER BY id")).fetchall()


async def test_many_processes_make_it_and_each_migration_is_applied_once(server: str, folder: Path) -> None:
    async def begin() -> None:
        async with database.opened(server, "new", folder, most=1):
            pass

    await asyncio.gather(*(begin() for _ in range(10)))
    dsn = database.dsn(server, "new")
    assert await found(dsn) == [(1,), (2,)]
    (folder / "003_third.sql").write_text("INSERT INTO first VALUES (3);")
    assert [await database.migrate(dsn, folder), await database.migrate(dsn, folder)] == [["003_third"], []]


async def test_a_migration_that_fails_changes_nothing(server: str, folder: Path) -> None:
    await database.create(server, "new")
    dsn = database.dsn(server, "new")
    await database.migrate(dsn, folder)
    (folder / "003_good.sql").write_text("INSERT INTO first VALUES (3);")
    (folder / "004_bad.sql").write_text("INSERT INTO nowhere VALUES (4);")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await database.migrate(dsn, folder)
    assert await found(dsn) == [(1,), (2,)]


async def test_a_migration_that_was_edited_afterwards_is_refused(server: str, folder: Path) -> None:
    await database.create(server, "new")
    dsn = database.dsn(server, "new")
    await database.migrate(dsn, folder)
    (folder / "001_first.sql").write_text("CREATE TABLE first (id bigint);")
    (folder / "003_third.sql").write_text("INSERT INTO first VALUES (3);")
    with pytest.raises(MigrationChanged, match="001_first"):
        await database.migrate(dsn, folder)
    assert await found(dsn) == [(1,), (2,)]
