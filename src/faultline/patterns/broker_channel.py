"""One channel of a connection of its own, whose end does not wait for a broker that is dead or silent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from faultline.patterns.hang_up import hang_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aio_pika.abc import AbstractChannel


@asynccontextmanager
async def opened(amqp: str, timeout: float) -> AsyncIterator[AbstractChannel]:
    """For the block; what is published on it is confirmed, or returned as an error.

    `timeout`: seconds for each of its two beginnings. Raises the client's errors, and `TimeoutError`.
    """
    import aio_pika

    async with asyncio.timeout(timeout):
        broker = await aio_pika.connect(amqp)
    try:
        async with asyncio.timeout(timeout):
            channel = await broker.channel(publisher_confirms=True, on_return_raises=True)
        yield channel
    finally:
        await hang_up(broker)
