"""What a subscriber promises beyond what `test_consumer.py` holds a consumer to, which is one: it has no inbox."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.exceptions import DeliveryError
from tests.patterns.outbox_ground import through, virtual_host

from faultline.components.proxy import FaultProxy
from faultline.patterns import Away, Event, NotUnderstood, Parked, Parking, Subscriber
from faultline.testbed.rabbitmq import RabbitServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aio_pika.abc import AbstractChannel
    from tests.patterns.conftest import Until

    from faultline.testbed.rabbitmq import Broker

    Handler = Callable[[Event], Awaitable[object]]

pytestmark = [pytest.mark.once, pytest.mark.timeout(120), pytest.mark.xdist_group("consumer")]
EXCHANGE, QUEUE, TYPE = "events", "cache", "catalog.changed"


@pytest.fixture
async def broker(shared_broker: tuple[str, int, int]) -> AsyncIterator[Broker]:
    async with virtual_host(RabbitServer(*shared_broker)) as broker:
        yield broker


async def prepare(channel: AbstractChannel) -> None:
    await channel.declare_exchange(EXCHANGE, "topic", durable=True)


class Ran:
    """A subscriber in its loop, and what its handler was asked."""

    def __init__(self, amqp: str, handle: Handler) -> None:
        async def noted(event: Event) -> None:
            self.asked.append(event.id)
            await handle(event)

        self.asked: list[str] = []
        self.errors: list[Exception] = []
        self.subscriber = Subscriber(
            amqp, queue=QUEUE, exchange=EXCHANGE, handlers={TYPE: noted}, prepare=prepare, delays=(500.0,)
        )
        self.task = asyncio.create_task(self.subscriber.run(on_error=self.errors.append))

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


@asynccontextmanager
async def ran(amqp: str, handle: Handler, until: Until) -> AsyncIterator[Ran]:
    ran = Ran(amqp, handle)
    try:
        await until(lambda: asyncio.sleep(0, ran.subscriber.registered))
        yield ran
    finally:
        await ran.end()


async def publish(broker: Broker, *names: str) -> None:
    async with broker.connected() as connection:
        exchange = await (await connection.channel()).get_exchange(EXCHANGE)
        for name in names:
            message = Message(b"{}", message_id=name, type=TYPE, delivery_mode=DeliveryMode.PERSISTENT)
            await exchange.publish(message, TYPE)


async def ready_in(broker: Broker, until: Until, **counts: int) -> None:
    async def there() -> bool:
        names = {"waiting": QUEUE, "put_off": f"{QUEUE}.retry.500s", "parked": f"{QUEUE}.parked"}
        return [await broker.ready_messages(names[name]) for name in counts] == list(counts.values())

    await until(there)


async def test_who_waits_for_its_turn_is_registered_and_who_has_ended_is_not(broker: Broker, until: Until) -> None:
    async def handle(event: Event) -> None: ...

    async with ran(broker.url, handle, until) as first, ran(broker.url, handle, until) as second:
        await first.end()
        assert not first.subscriber.registered
        assert second.subscriber.registered
        await publish(broker, "a")
        await until(lambda: asyncio.sleep(0, second.asked == ["a"]))
    assert not second.subscriber.registered
    assert first.errors == second.errors == []


async def test_whoever_is_cut_off_before_the_acknowledgement_is_asked_again(broker: Broker, until: Until) -> None:
    opened = asyncio.Event()

    async def handle(event: Event) -> None:
        await opened.wait()

    async with (
        FaultProxy(broker.server.host, broker.server.port) as way,
        ran(through(way, broker), handle, until) as ours,
    ):
        await publish(broker, "a")
        await until(lambda: asyncio.sleep(0, ours.asked == ["a"]))
        await way.sever()
        await until(lambda: asyncio.sleep(0, ours.asked == ["a", "a"]))
        opened.set()
    await ready_in(broker, until, waiting=0, put_off=0, parked=0)


async def test_what_a_handler_works_on_may_be_away_for_long_and_nothing_is_put_off(
    broker: Broker, until: Until
) -> None:
    async def handle(event: Event) -> None:
        if ours.asked.count("a") < 3:
            raise Away("no Redis")

    async with ran(broker.url, handle, until) as ours:
        await publish(broker, "a")
        await until(lambda: asyncio.sleep(0, ours.asked == ["a"] * 3))
        assert [type(error) for error in ours.errors] == [Away, Away]
    await ready_in(broker, until, waiting=0, put_off=0, parked=0)


async def test_what_a_handler_does_not_understand_is_parked_at_once_and_what_it_fails_at_is_put_off(
    broker: Broker, until: Until
) -> None:
    async def handle(event: Event) -> None:
        raise NotUnderstood("no sku") if event.id == "strange" else LookupError("no such product")

    async with ran(broker.url, handle, until) as ours:
        await publish(broker, "strange", "failing")
        await ready_in(broker, until, put_off=1, parked=1)
        parked, failed = sorted(ours.errors, key=lambda error: isinstance(error, LookupError))
        assert isinstance(parked, Parked)
        assert "no sku" in str(parked)
        assert failed.__notes__ == ["catalog.changed failing"]
        assert ours.asked == ["strange", "failing"]


async def test_what_cannot_be_driven_again_stays_parked(broker: Broker, until: Until) -> None:
    async def handle(event: Event) -> None:
        raise NotUnderstood("no sku")

    async with ran(broker.url, handle, until):
        await publish(broker, "strange")
        await ready_in(broker, until, parked=1)
    async with broker.connected() as connection:
        await (await connection.channel()).queue_delete(QUEUE)
    with pytest.raises(DeliveryError):
        await Parking(broker.url, queue=QUEUE).redrive()
    await ready_in(broker, until, parked=1)


async def test_an_exchange_that_is_gone_is_prepared_anew(broker: Broker, until: Until) -> None:
    async def handle(event: Event) -> None: ...

    async with (
        FaultProxy(broker.server.host, broker.server.port) as way,
        ran(through(way, broker), handle, until) as ours,
    ):
        async with broker.connected() as connection:
            await (await connection.channel()).exchange_delete(EXCHANGE)
        await way.sever()
        await until(lambda: asyncio.sleep(0, not ours.subscriber.registered))
        await until(lambda: asyncio.sleep(0, ours.subscriber.registered))
        await publish(broker, "a")
        await until(lambda: asyncio.sleep(0, ours.asked == ["a"]))
