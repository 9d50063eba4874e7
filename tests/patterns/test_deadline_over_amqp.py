"""A deadline in a message: what is left of it, and what becomes of a message for which nobody waits any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aio_pika
import pytest

from faultline.patterns import deadline, from_headers, headers, remaining
from faultline.testbed.rabbitmq import Broker, RabbitServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.once, pytest.mark.timeout(240), pytest.mark.xdist_group("broker")]
Where = tuple[str, int, int]


@pytest.fixture
async def broker(shared_broker: Where) -> AsyncIterator[Broker]:
    async with RabbitServer(*shared_broker).vhost("deadline") as broker:
        yield broker


async def test_a_message_carries_what_is_left_and_is_dropped_when_nobody_waits(broker: Broker) -> None:
    now = 0.0
    async with broker.connected() as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue("asked")
        hurried = await channel.declare_queue(
            "hurried", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dropped"}
        )
        dropped = await channel.declare_queue("dropped")
        async with deadline(60, clock=lambda: now):
            now += 20
            body = aio_pika.Message(b"", headers={**headers(margin=1)}, expiration=remaining())
            await channel.default_exchange.publish(body, "asked")
            now += 39.95
            body = aio_pika.Message(b"", headers={**headers()}, expiration=remaining())
            await channel.default_exchange.publish(body, "hurried")
        message = await queue.get(no_ack=True)
        assert from_headers(message.headers) == 39.0
        async with deadline(from_headers(message.headers), clock=lambda: now):
            assert remaining() == 39.0
        async with dropped.iterator(timeout=30) as messages:
            async for gone in messages:
                assert (from_headers(gone.headers) or 0) <= 0.05
                await gone.ack()
                break
        assert await hurried.get(no_ack=True, fail=False) is None
