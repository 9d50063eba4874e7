"""A RabbitMQ of a check: its address for the learner's code, connections and the management API for the truth.

A server takes seconds to start, so the checks of a run share one, each in a virtual host of its own, which shares no
name and no message with another. What would hit the others (kill, pause) only a server of one's own can be asked for.
"""

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faultline.components import Instance
from faultline.components.http import ask
from faultline.testbed.breakable import Breakable
from faultline.testbed.errors import TestbedError
from faultline.testbed.history import History
from faultline.testbed.wire import BrokerAt

if TYPE_CHECKING:  # the client takes 0.3 s to import, and most checks need none
    from aio_pika.abc import AbstractConnection


@dataclass(frozen=True, slots=True)
class RabbitServer:
    """Where a server answers."""

    host: str
    port: int
    management: int

    @classmethod
    def of(cls, instance: Instance) -> "RabbitServer":
        """The addresses of a server that runs here."""
        return cls(instance.host, instance.port, instance.ports["management"])

    async def manage(self, method: str, path: str, body: object = None) -> Any:
        """What the management API answers below `/api/`, as plain data; raises `TestbedError` for a refusal."""
        url = f"http://guest:guest@{self.host}:{self.management}/api/{path}"
        content = b"" if body is None else json.dumps(body).encode()
        answer = await ask(url, method=method, body=content, headers={"Content-Type": "application/json"})
        if answer.status >= 300:
            raise TestbedError(f"RabbitMQ answered {method} {path} with {answer.status}: {answer.body[:200]!r}")
        return json.loads(answer.body) if answer.body else None

    @asynccontextmanager
    async def vhost(self, what: str) -> "AsyncIterator[Broker]":
        """A virtual host of one's own, removed with all that is in it; `what` is for whoever looks at the server."""
        name = f"{what}-{secrets.token_hex(4)}"
        await self.manage("PUT", f"vhosts/{name}", {})
        try:
            await self.manage("PUT", f"permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
            yield Broker(self, name)
        finally:
            await self.manage("DELETE", f"vhosts/{name}")


@dataclass(frozen=True, slots=True)
class Broker:
    """One virtual host of a real server, private to the check."""

    server: RabbitServer
    vhost: str

    @property
    def url(self) -> str:
        """Its address as an argument for learner's code that connects by itself."""
        vhost = "%2F" if self.vhost == "/" else self.vhost
        return f"amqp://guest:guest@{self.server.host}:{self.server.port}/{vhost}"

    def at(self) -> BrokerAt:
        """Its address as an argument for the learner's code: arrives there as a connection of its own."""
        return BrokerAt(self.url)

    @asynccontextmanager
    async def connected(self) -> "AsyncIterator[AbstractConnection]":
        """A connection of the grader's own, closed with the block."""
        import aio_pika

        async with await aio_pika.connect(self.url) as connection:
            yield connection

    async def ready_messages(self, queue: str) -> int:
        """How many messages wait in that queue, without those that a consumer holds."""
        async with self.connected() as connection:
            declared = await (await connection.channel()).declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


@dataclass(frozen=True, slots=True)
class OwnBroker(Breakable, Broker):
    """A whole server for this check alone, to be broken; durable messages in durable queues survive a kill."""

    instance: Instance
    history: History
    uncounted: Callable[[], AbstractContextManager[None]]

    async def restart(self) -> None:
        """Start it again on the same port; the seconds that this takes are not the check's."""
        with self.uncounted():
            await Breakable.restart(self)  # a dataclass with slots is another class than the one that `super()` knows
