"""Redis as the services ask it: within a time, once, and with errors that are the client's own.

uvloop raises a plain RuntimeError where something is written to a connection that was closed a moment before. To
whoever asks that is no other thing than a server that has hung up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as HungUp

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Connection(Connection):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:  # noqa: FBT001, FBT002, RUF100 - redis-py's
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise HungUp(f"the connection was closed under what was written: {error}") from error


def client(url: str, *, patience: float) -> Redis:
    """One that gives up after `patience` seconds for an answer, or a connection, and asks nothing twice by itself."""
    return Redis.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 0),
        connection_class=_Connection,
    )
