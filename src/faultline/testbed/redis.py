"""A Redis server of a check: its address for the learner's code, a client of the grader's own for the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from faultline.components import Instance
from faultline.components.proxy import FaultProxy
from faultline.testbed.breakable import Breakable
from faultline.testbed.faked_clock import FakedClock
from faultline.testbed.history import History
from faultline.testbed.until import until
from faultline.testbed.wire import RedisAt


@dataclass(slots=True, eq=False)
class RedisServer(Breakable):
    """One real server; the check may break it, and ask it for the truth."""

    instance: Instance
    truth: Redis
    history: History
    clock: FakedClock | None = field(default=None, kw_only=True)

    def at(self, *, socket_timeout: float = 5.0) -> RedisAt:
        """Its address as an argument for the learner's code: arrives there as a client of its own."""
        return RedisAt(self.instance.host, self.instance.port, socket_timeout)

    async def wall_clock(self) -> float:
        """What it takes for the time of day (TIME), in Unix seconds."""
        seconds, microseconds = await self.truth.time()
        return float(seconds + microseconds / 1e6)

    async def _begun(self) -> None:
        if self.clock:
            await self.clock.started(self)

    async def _hang_up(self) -> None:
        await self.truth.connection_pool.disconnect()  # or the next question is asked on a dead connection

    async def forgotten(self, ports: Sequence[int]) -> None:
        """Return when it has done all that came from these ports, whose connections are closed."""
        ours = {f"{self.instance.host}:{port}" for port in ports}
        await until(lambda: self._knows_none_of(ours), f"{self.name} had closed the connections of the dead")

    async def _knows_none_of(self, addresses: set[str]) -> bool:
        return not addresses & {client["addr"] for client in await self.truth.client_list()}


@dataclass(frozen=True, slots=True)
class ProxiedRedis:
    """The way to a server that leads through a fault proxy of its own."""

    proxy: FaultProxy
    server: RedisServer

    @property
    def requests(self) -> int:
        """Commands that went through until now, without what a client says when it connects."""
        return self.proxy.counts.requests

    def at(self, *, socket_timeout: float = 5.0) -> RedisAt:
        """The proxy's address as an argument for the learner's code."""
        return RedisAt(self.proxy.host, self.proxy.port, socket_timeout)
