"""A service's own database: made if it is not there, brought up to date, and a pool of connections to it.

Migrations are plain SQL files, `NNN_what_it_does.sql`, each applied once, in order, by whichever replica comes first;
all that a database lacks in one transaction. What a database has applied must not change any more: write the next one.
"""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from psycopg import AsyncConnection, errors, sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from faultline.shop.errors import MigrationChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LEDGER = """
CREATE TABLE IF NOT EXISTS migration (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
WAIT = 2.0  # seconds for a connection of the pool: who waits longer is better told so


def dsn(server: str, name: str) -> str:
    """The database `name` of the server, as libpq takes it."""
    return make_conninfo(server, dbname=name)


async def create(server: str, name: str) -> None:
    """Make the database unless it is there; any number of processes may do so at once."""
    async with await AsyncConnection.connect(server, autocommit=True) as connection:
        found = await connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if found.rowcount == 0:
            # UniqueViolation: another process was quicker by less than it takes to look
            with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


async def migrate(database: str, folder: Path) -> list[str]:
    """Apply what the database does not have yet, and say what that was.

    Raises `MigrationChanged` for an applied one whose text is another now, and applies nothing then.
    """
    texts = {file.stem: file.read_text() for file in sorted(folder.glob("*.sql"))}  # noqa: ASYNC240 -- small, and once
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    async with await AsyncConnection.connect(database) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('migrate', 0))")
        await connection.execute(LEDGER)
        rows = await (await connection.execute("SELECT name, sha256 FROM migration")).fetchall()
        applied: dict[str, str] = dict(rows)
        for name, sha256 in hashes.items():
            if applied.get(name, sha256) != sha256:
                raise MigrationChanged(
                    f"{folder / name}.sql is not what {connection.info.dbname} has applied; put it back, and write "
                    "another one"
                )
        fresh = [name for name in texts if name not in applied]
        for name in fresh:
            await connection.execute(texts[name].encode())
            await connection.execute("INSERT INTO migration (name, sha256) VALUES (%s, %s)", [name, hashes[name]])
    return fresh


@asynccontextmanager
async def opened(
    server: str, name: str, migrations: Path | None = None, *, most: int = 10
) -> AsyncIterator[AsyncConnectionPool]:
    """At most so many connections to the migrated database `name`; closed at the end of the block.

    `migrations`: where they are; none for a service whose tables are all the patterns' own.
    """
    await create(server, name)
    if migrations:
        await migrate(dsn(server, name), migrations)
    pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
        dsn(server, name),
        min_size=1,
        max_size=most,
        timeout=WAIT,
        kwargs={"autocommit": True},
        check=AsyncConnectionPool.check_connection,  # a server that was restarted costs no request
        open=False,
    )
    async with pool:
        yield pool
