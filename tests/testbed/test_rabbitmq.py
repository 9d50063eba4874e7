"""What a check gets when it asks for RabbitMQ."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from aio_pika import DeliveryMode, Message

from faultline.testbed import Broker, Testbed, TestbedError
from faultline.testbed.rabbitmq import RabbitServer

Where = tuple[str, int, int]
OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

pytestmark = [pytest.mark.once, pytest.mark.timeout(240), pytest.mark.xdist_group("broker")]

SELLER = """
from aio_pika import Message

class Seller:
    def __init__(self, connection):
        self.connection = connection

    async def sell(self, order):
        channel = await self.connection.channel(publisher_confirms=True)
        await channel.declare_queue("orders", durable=True)
        await channel.default_exchange.publish(Message(order.encode()), "orders")
"""


async def put(broker: Broker, body: bytes) -> None:
    async with broker.connected() as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue("orders", durable=True)
        await channel.default_exchange.publish(Message(body, delivery_mode=DeliveryMode.PERSISTENT), "orders")


async def test_checks_share_a_server_and_nothing_on_it(shared_broker: Where, on_testbed: OnTestbed) -> None:
    server = RabbitServer(*shared_broker)
    async with on_testbed("") as testbed:
        testbed.broker = shared_broker
        mine, yours = await testbed.rabbitmq(), await testbed.rabbitmq()
        await put(mine, b"order 1")
        await put(yours, b"order 2")
        await put(yours, b"order 3")
        assert [await broker.ready_messages("orders") for broker in (mine, yours)] == [1, 2]
        names = {row["name"] for row in await server.manage("GET", "vhosts")}
        assert names >= {mine.vhost, yours.vhost}
    assert {row["name"] for row in await server.manage("GET", "vhosts")}.isdisjoint({mine.vhost, yours.vhost})


async def test_the_learners_code_gets_a_connection_or_an_address(shared_broker: Where, on_testbed: OnTestbed) -> None:
    async with on_testbed(SELLER) as testbed:
        testbed.broker = shared_broker
        broker = await testbed.rabbitmq()
        process = await testbed.process("shop-1")
        for seller in [await process.new("Seller", broker.at()), await process.new("Seller", broker.at())]:
            await seller.sell("order")
        assert await broker.ready_messages("orders") == 2
        connections = await broker.server.manage("GET", f"vhosts/{broker.vhost}/connections")
        assert len(connections) <= 1  # statistics may come later


async def test_a_module_that_does_not_name_rabbitmq_has_none(on_testbed: OnTestbed) -> None:
    async with on_testbed("") as testbed:
        with pytest.raises(TestbedError, match=r"name rabbitmq in the components of module\.toml"):
            await testbed.rabbitmq()


@pytest.mark.slow
async def test_a_broker_of_ones_own_can_be_killed_and_its_start_costs_the_check_no_time(on_testbed: OnTestbed) -> None:
    async with on_testbed("") as testbed, asyncio.timeout(1.0) as timer:  # it starts in three seconds at best
        testbed.timer = timer
        broker = await testbed.own_rabbitmq()
        timer.reschedule(None)
        await put(broker, b"order 1")

        timer.reschedule(asyncio.get_running_loop().time() + 1.0)
        await broker.kill()
        await broker.restart()
        timer.reschedule(None)

        assert await broker.ready_messages("orders") == 1
        async with testbed.paused(broker):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await broker.ready_messages("orders")
        assert await broker.ready_messages("orders") == 1
