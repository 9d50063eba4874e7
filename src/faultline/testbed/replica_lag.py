"""Replicas that fall behind exactly when the check says, as far as it likes, and catch up when it says.

PostgreSQL: the replica receives everything and replays nothing (`pg_wal_replay_pause`). Redis: what the primary sends
waits in a proxy on the replication link. Either way the replica answers, from the past.
"""

from dataclasses import dataclass
from typing import Protocol

from faultline.components.faults import Direction, Latency
from faultline.components.proxy import FaultProxy, Injected
from faultline.testbed.postgres import PostgresServer
from faultline.testbed.redis import RedisServer
from faultline.testbed.until import until

_FOR_EVER = 86_400.0  # seconds


class Replica(Protocol):
    """A server that follows another one, and can be kept from it."""

    @property
    def name(self) -> str:
        """As it appears in timelines."""
        ...

    async def stall(self) -> None:
        """Stay where the primary is now: nothing that it commits from here on can be read on the replica."""
        ...

    async def catch_up(self) -> int:
        """Follow again; returns when all is there: how many writes the primary was ahead by."""
        ...


@dataclass(slots=True, eq=False)
class PostgresReplica(PostgresServer):
    """A streaming replica."""

    primary: PostgresServer | None = None
    _written: int = 0

    async def stall(self) -> None:
        """Stay where the primary is now."""
        await self._level()
        await self.truth("SELECT pg_wal_replay_pause()")
        await until(lambda: self._says("pg_get_wal_replay_pause_state() = 'paused'"), f"{self.name} had paused")
        self._written = await self._transactions()
        self.history.note(self.name, "replays nothing any more")

    async def catch_up(self) -> int:
        """Follow again; how many transactions of the primary it had missed."""
        missed = await self._transactions() - self._written
        self.history.note(self.name, f"catches up, {missed} transactions behind")
        await self.truth("SELECT pg_wal_replay_resume()")
        await self._level()
        return missed

    async def _level(self) -> None:
        assert self.primary
        [(position,)] = await self.primary.truth("SELECT pg_current_wal_lsn()::text")
        await until(lambda: self._says(f"pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"), f"{self.name} is level")

    async def _says(self, condition: str) -> bool:
        return await self.truth(f"SELECT {condition}") == [(True,)]

    async def _transactions(self) -> int:
        """How many transactions have written on the primary, ever."""
        assert self.primary
        [(number,)] = await self.primary.truth("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        return int(number)


@dataclass(slots=True, eq=False)
class RedisReplica(RedisServer):
    """A Redis that copies another one over a link of its own."""

    primary: RedisServer
    link: FaultProxy
    _silence: Injected | None = None
    _written: int = 0

    async def stall(self) -> None:
        """Stay where the primary is now."""
        await self._level()
        self._silence = self.link.add(Latency(_FOR_EVER), Direction.TO_CLIENT)
        self._written = await self._changes()
        self.history.note(self.name, "hears nothing from its primary any more")

    async def catch_up(self) -> int:
        """Follow again; how many changes of the primary it had missed."""
        missed = await self._changes() - self._written
        self.history.note(self.name, f"catches up, {missed} changes behind")
        if self._silence:
            self.link.remove(self._silence)
        await self._level()
        return missed

    async def _level(self) -> None:
        position = await _field(self.primary, "master_repl_offset")

        async def there() -> bool:
            return await _field(self, "slave_repl_offset") >= position

        await until(there, f"{self.name} is level")

    async def _changes(self) -> int:
        return await _field(self.primary, "rdb_changes_since_last_save")


async def _field(server: RedisServer, name: str) -> int:
    return int((await server.truth.info("everything"))[name])
