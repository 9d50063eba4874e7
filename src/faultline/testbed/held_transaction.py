"""A transaction that the check keeps open: it holds what it has locked or not yet shown, until the check ends it.

```
async with testbed.held_transaction(db, "UPDATE stock SET units = 0 WHERE sku = 'hat'") as held:
    selling = asyncio.create_task(seller.sell("hat"))
    await held.blocks(1)          # the learner's session certainly waits, and for this
    await held.commit()
await selling
```
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from faultline.testbed.errors import Vacuous
from faultline.testbed.postgres import PostgresServer, Row

# Who waits for a row waits for whoever is first in the queue for it, so the chain is followed to its end.
_WAITERS = b"""
    WITH RECURSIVE stuck (pid) AS (
        SELECT pid FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))
        UNION
        SELECT behind.pid FROM pg_stat_activity AS behind JOIN stuck ON stuck.pid = ANY (pg_blocking_pids(behind.pid))
    )
    SELECT pid, query FROM pg_stat_activity JOIN stuck USING (pid) ORDER BY query_start
"""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A session that waits for the held transaction: its backend's pid, and the statement that waits."""

    pid: int
    statement: str


class HeldTransaction:
    """An open transaction of the check's; made by `Testbed.held_transaction`."""

    def __init__(self, server: PostgresServer, connection: "psycopg.AsyncConnection[Row]", patience: float) -> None:
        self._server = server
        self._connection = connection
        self._patience = patience
        self.most_waiters = 0

    async def execute(self, sql: str, *parameters: Any) -> list[Row]:
        """One more statement in it; the rows that it gives."""
        cursor = await self._connection.execute(sql.encode(), parameters or None)
        return await cursor.fetchall() if cursor.description else []

    async def waiters(self) -> list[Waiter]:
        """Who waits for it now, in the order of their statements' start."""
        pid = self._connection.info.backend_pid
        found = [Waiter(pid, query) for pid, query in await self._server.truth(_WAITERS.decode(), (pid,))]
        self.most_waiters = max(self.most_waiters, len(found))
        return found

    async def blocks(self, count: int = 1, *, within: float = 5.0) -> list[Waiter]:
        """Return once `count` sessions wait for it; `Vacuous` after `within` seconds: nobody met what it holds."""
        deadline = time.monotonic() + within * self._patience
        # Twice: PostgreSQL reads what a session does before whether it waits, so that one that has begun to wait in
        # between is shown with the statement before.
        while len(await self.waiters()) < count or len(found := await self.waiters()) < count:
            if time.monotonic() > deadline:
                seen = self.most_waiters
                raise Vacuous(f"{seen} of {count} sessions waited for the held transaction within {within:g} s")
            await asyncio.sleep(0.002)
        self._server.history.note(self._server.name, f"{len(found)} wait for the held transaction")
        return found

    async def commit(self) -> None:
        """End it; what it did is there for all."""
        self._server.history.note(self._server.name, "the held transaction commits")
        await self._connection.commit()

    async def rollback(self) -> None:
        """End it; nothing of it has happened."""
        self._server.history.note(self._server.name, "the held transaction rolls back")
        await self._connection.rollback()
