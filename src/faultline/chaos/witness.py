"""Hears what the shop says of one order, as it is said: a queue of one's own beside those of the services."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aio_pika.abc import AbstractIncomingMessage

    from faultline.testbed.rabbitmq import Broker

EXCHANGE = "shop.events"


@asynccontextmanager
async def hearing(broker: Broker, told: Callable[[str, str], None]) -> AsyncIterator[None]:
    """Tell of each event its type and its subject, while the block runs; nobody else's events are taken away.

    Not of commands: a queue that hears them would take one for which there is no queue yet.
    """
    async with broker.connected() as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE)
        queue = await channel.declare_queue(auto_delete=True)
        await queue.bind(exchange, "#")

        async def heard(message: AbstractIncomingMessage) -> None:
            told(str(message.type or message.routing_key), str(message.headers.get("subject", "")))

        await queue.consume(heard, no_ack=True)
        yield
