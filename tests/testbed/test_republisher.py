"""What the re-publisher does to messages, and what it never does: lose one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from hypothesis import given
from hypothesis import strategies as st

from faultline.testbed import Broker, Noise, Republisher, Testbed, Vacuous

Where = tuple[str, int, int]
OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

pytestmark = [pytest.mark.once, pytest.mark.timeout(240), pytest.mark.xdist_group("broker")]

ALL = Noise(twice=True, swapped=True, spoilt=True)


@given(seed=st.integers(), every=st.integers(2, 9), block=st.integers(0, 1000))
def test_of_so_many_messages_each_noise_hits_one_and_a_seed_repeats_it(seed: int, every: int, block: int) -> None:
    noise = Noise(twice=True, swapped=True, spoilt=True, every=every)
    fates = [noise.fate(seed, number) for number in range(block * every, (block + 1) * every)]
    assert [sum(getattr(fate, what) for fate in fates) for what in ("twice", "swapped", "spoilt")] == [1, 1, 1]
    assert not fates[-1].swapped  # the one after it may never come
    assert fates == [noise.fate(seed, number) for number in range(block * every, (block + 1) * every)]


async def publish(broker: Broker, bodies: list[str]) -> None:
    async with broker.connected() as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.declare_exchange("orders", "topic", durable=True)
        for body in bodies:
            await exchange.publish(Message(body.encode(), message_id=body, headers={"n": 1}), "order.made")


@asynccontextmanager
async def listening(broker: Broker) -> AsyncIterator[list[AbstractIncomingMessage]]:
    heard = list[AbstractIncomingMessage]()

    async def hear(message: AbstractIncomingMessage) -> None:
        heard.append(message)

    async with broker.connected() as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("orders", "topic", durable=True)
        queue = await channel.declare_queue("billing")
        await queue.bind(exchange, "order.*")
        await queue.consume(hear, no_ack=True)
        yield heard


async def until(count: int, heard: list[AbstractIncomingMessage]) -> None:
    async with asyncio.timeout(30):
        while len(heard) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_every_message_comes_some_twice_some_late_and_copies_are_spoilt(
    shared_broker: Where, on_testbed: OnTestbed
) -> None:
    bodies = [f"order {number:03}" for number in range(12)]
    async with on_testbed("") as testbed:
        testbed.broker = shared_broker
        broker = await testbed.rabbitmq()
        way = await testbed.republisher(broker, "orders", ALL)
        async with listening(way.far) as heard:
            await publish(broker, bodies)
            await until(18, heard)
        testbed.prove_faults()

    assert way.counts == {"seen": 12, "twice": 3, "swapped": 3, "spoilt": 3}
    whole = [message.body.decode() for message in heard if message.body.decode() in bodies]
    assert set(whole) == set(bodies)
    assert sorted(Counter(whole).values()) == [1] * 9 + [2] * 3
    assert {message.body for message in heard if message.body.decode() not in bodies} == {b"orde"}
    first = [body for body, _ in Counter(whole).items()]  # in the order in which they came first
    assert sum(earlier > later for earlier, later in zip(first, first[1:], strict=False)) == 3
    assert {(m.exchange, m.routing_key, m.headers["n"]) for m in heard} == {("orders", "order.made", 1)}
    assert {message.message_id for message in heard} == set(bodies)


async def test_noise_that_hit_nothing_proves_nothing(shared_broker: Where, on_testbed: OnTestbed) -> None:
    async with on_testbed("") as testbed:
        testbed.broker = shared_broker
        await testbed.republisher(await testbed.rabbitmq(), "orders", Noise(twice=True))
        with pytest.raises(Vacuous, match="messages of orders twice"):
            testbed.prove_faults()


async def test_the_last_message_is_not_kept_for_one_that_never_comes(
    shared_broker: Where, on_testbed: OnTestbed
) -> None:
    noise = Noise(swapped=True, every=2)  # every first of two waits
    async with on_testbed("") as testbed:
        testbed.broker = shared_broker
        broker = await testbed.rabbitmq()
        way = await testbed.republisher(broker, "orders", noise)
        async with listening(way.far) as heard:
            await publish(broker, ["order 1"])
            await until(1, heard)
    assert way.counts["swapped"] == 0


async def test_what_came_over_one_way_goes_back_over_no_other(shared_broker: Where, on_testbed: OnTestbed) -> None:
    async with on_testbed("") as testbed:
        testbed.broker = shared_broker
        broker = await testbed.rabbitmq()
        there = await testbed.republisher(broker, "orders", Noise())
        async with listening(broker) as here, listening(there.far) as heard:
            back = Republisher(Noise(), 1, broker)
            async with back.between(there.far, "orders", kind="topic", keys=["#"]):
                await publish(broker, ["order 1"])
                await publish(there.far, ["order 2"])
                await until(2, here)
                await until(2, heard)
                await publish(broker, ["order 3"])
                await until(3, heard)
    assert [sorted(m.body for m in messages) for messages in (here, heard)] == [
        [b"order 1", b"order 2", b"order 3"]
    ] * 2
    assert back.counts["seen"] == 1
