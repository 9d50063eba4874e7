"""What a consumer promises, on a real PostgreSQL and a real RabbitMQ, whichever of them fails, or itself."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError
from tests.patterns.outbox_ground import (
    database_with_outbox,
    declare,
    event,
    heard,
    own_rabbitmq,
    say,
    through,
    virtual_host,
)

from faultline.components.faults import BlackHole, Direction
from faultline.components.proxy import FaultProxy, named
from faultline.patterns import Away, Consumer, Event, Parked, Parking, Relay
from faultline.testbed.rabbitmq import RabbitServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aio_pika.abc import AbstractIncomingMessage
    from tests.patterns.conftest import Until

    from faultline.components import Instance
    from faultline.testbed.rabbitmq import Broker

    Tx = psycopg.AsyncConnection[Any]

pytestmark = [pytest.mark.once, pytest.mark.timeout(240), pytest.mark.xdist_group("consumer")]
EXCHANGE, QUEUE, TYPE = "events", "mails", "orders.placed"
PARKED = f"{QUEUE}.parked"


@pytest.fixture
async def broker(shared_broker: tuple[str, int, int]) -> AsyncIterator[Broker]:
    async with virtual_host(RabbitServer(*shared_broker)) as broker:
        await declare_exchange(broker)
        yield broker


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Instance]:
    async with database_with_outbox(tmp_path) as server:
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            await connection.execute("CREATE TABLE effect (number int GENERATED ALWAYS AS IDENTITY, id text NOT NULL)")
        yield server


async def declare_exchange(broker: Broker) -> None:
    async with broker.connected() as connection:
        await (await connection.channel()).declare_exchange(EXCHANGE, "topic", durable=True)


async def take_effect(tx: Tx, event: Event) -> None:
    await tx.execute("INSERT INTO effect (id) VALUES (%s)", [event.id])


async def effects(database: Instance) -> list[str]:
    """In the order in which they were committed, as far as one subject is concerned."""
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        rows = await (await connection.execute("SELECT id FROM effect ORDER BY number")).fetchall()
    return [row[0] for row in rows]


async def publish(broker: Broker, *events: Event) -> None:
    """As the relay does."""
    async with broker.connected() as connection:
        exchange = await (await connection.channel()).get_exchange(EXCHANGE)
        for one in events:
            message = Message(
                b"{}",
                message_id=one.id,
                type=one.type,
                headers={"subject": one.subject},
                delivery_mode=DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, one.type)


def placed(name: str, subject: str = "order-1") -> Event:
    return event(name, subject, to=TYPE)


class Handler:
    """Takes effect; in between it notes, waits and fails as told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.at: list[float] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failing: dict[str, int] = {}
        self.inside: set[str] = set()

    async def __call__(self, tx: Tx, event: Event) -> None:
        self.begun.append(event.id)
        self.at.append(asyncio.get_running_loop().time())
        await take_effect(tx, event)
        self.inside.add(event.id)
        try:
            await self.open.wait()
        finally:
            self.inside.discard(event.id)
        if self.failing.get(event.id, 0) > 0:
            self.failing[event.id] -= 1
            raise LookupError(f"no stock for {event.id}")


class Ran:
    """A consumer in its loop."""

    def __init__(self, consumer: Consumer, handler: Handler) -> None:
        self.consumer = consumer
        self.handler = handler
        self.errors: list[Exception] = []
        self.task = asyncio.create_task(consumer.run(on_error=self.errors.append))


@asynccontextmanager
async def ran(dsn: str, amqp: str, **settings: Any) -> AsyncIterator[Ran]:
    handler = Handler()
    settings = {"delays": (0.2, 0.4), **settings}
    consumer = Consumer(dsn, amqp, queue=QUEUE, exchange=EXCHANGE, handlers={TYPE: handler}, **settings)
    async with consumer:
        ran = Ran(consumer, handler)
        try:
            yield ran
        finally:
            ran.task.cancel()
            await asyncio.wait([ran.task])
            assert ran.task.cancelled()


async def hears(broker: Broker, until: Until) -> None:
    """Wait until somebody has subscribed."""

    async def subscribed() -> bool:
        async with broker.connected() as connection:
            try:
                queue = await (await connection.channel()).declare_queue(QUEUE, passive=True)
            except ChannelNotFoundEntity:
                return False
        return queue.declaration_result.consumer_count == 1  # of a single active one, those that wait do not count

    await until(subscribed)


async def unsettled(broker: Broker) -> list[str]:
    """The ids of all that comes, after the last consumer has gone, before a message that we send now."""
    ids: list[str] = []
    last = asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        await message.ack()
        if message.message_id == "last":
            last.set()
        elif not last.is_set():
            ids.append(message.message_id or "")

    async with broker.connected() as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(Message(b"", message_id="last"), QUEUE)
        await (await channel.get_queue(QUEUE)).consume(take)
        async with asyncio.timeout(20):
            await last.wait()
    return ids


async def has_effects(database: Instance, until: Until, *names: str) -> None:
    async def there() -> bool:
        return set(names) <= set(await effects(database))

    await until(there)


async def holds(broker: Broker, until: Until, count: int, queue: str = QUEUE) -> None:
    """Wait until so many messages lie in the queue, ready to be taken."""

    async def there() -> bool:
        return await broker.ready_messages(queue) == count

    await until(there)


async def test_from_the_outbox_to_the_effect(database: Instance, broker: Broker, until: Until) -> None:
    got: list[Event] = []

    async def keep(tx: Tx, event: Event) -> None:
        got.append(event)
        await take_effect(tx, event)

    consumer = Consumer(database.url, broker.url, queue=QUEUE, exchange=EXCHANGE, handlers={TYPE: keep})
    async with Relay(database.url, broker.url, exchange=EXCHANGE) as relay, consumer:
        running = asyncio.create_task(consumer.run(on_error=print))
        await hears(broker, until)
        await say(database.url, *(placed(str(number)) for number in range(30)))
        await relay.run_once()
        await has_effects(database, until, "29")
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
    assert got == [placed(str(number)) for number in range(30)]
    assert await effects(database) == [str(number) for number in range(30)]
    assert await unsettled(broker) == [], "not acknowledged"


async def test_what_fails_is_tried_again_after_each_delay_and_others_do_not_wait(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with ran(database.url, broker.url) as ours:
        ours.handler.failing = {"bad": 2}
        await hears(broker, until)
        await publish(broker, placed("bad"), placed("good"))
        await has_effects(database, until, "bad", "good")
        handler = ours.handler
        assert handler.begun == ["bad", "good", "bad", "bad"]
        assert handler.at[2] - handler.at[0] >= 0.2
        assert handler.at[3] - handler.at[2] >= 0.4
        assert [str(error) for error in ours.errors] == ["no stock for bad"] * 2
    assert await effects(database) == ["good", "bad"]
    assert [await unsettled(broker), await heard(broker, PARKED)] == [[], []]


async def test_what_fails_to_the_end_is_parked_with_the_reason_and_can_be_driven_again(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with ran(database.url, broker.url, delays=(0.01, 0.02)) as ours:
        ours.handler.failing = {"bad": 4}
        await hears(broker, until)
        await publish(broker, placed("bad"), placed("good"))
        await holds(broker, until, 1, PARKED)
        assert ours.handler.begun.count("bad") == 3
        assert [type(error) for error in ours.errors] == [LookupError, LookupError, Parked]
        assert "no stock for bad" in str(ours.errors[-1])
        async with broker.connected() as connection:
            parked = await (await (await connection.channel()).get_queue(PARKED)).get()
            assert (parked.headers["x-tries"], parked.headers["subject"]) == (3, "order-1")
            assert "no stock for bad" in str(parked.headers["x-reason"])
            await parked.nack(requeue=True)
        await holds(broker, until, 1, PARKED)
        assert await effects(database) == ["good"]
        parking = Parking(broker.url, queue=QUEUE)
        for _ in range(2):
            found = await parking.look()
            assert [(one.id, one.type, one.subject) for one in found] == [("bad", TYPE, "order-1")]
            assert "no stock for bad" in found[0].reason
            await holds(broker, until, 1, PARKED)
        assert await parking.redrive() == 1
        await has_effects(database, until, "bad")
        assert ours.handler.begun.count("bad") == 5, "it did not begin anew"
        assert [await parking.look(), await parking.redrive()] == [[], 0]
    assert await effects(database) == ["good", "bad"]
    assert [await unsettled(broker), await heard(broker, PARKED)] == [[], []]


async def test_what_cannot_be_read_is_parked_at_once(database: Instance, broker: Broker, until: Until) -> None:
    spoilt = {
        "half": Message(b'{"name": ', message_id="half", type=TYPE),
        "list": Message(b"[]", message_id="list", type=TYPE),
        "bytes": Message(b"\xff\xfe\x00", message_id="bytes", type=TYPE),
        "deep": Message(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, message_id="deep", type=TYPE),
        "typeless": Message(b"{}", message_id="typeless"),
        "stranger": Message(b"{}", message_id="stranger", type="orders.unheard-of"),
    }
    async with ran(database.url, broker.url, delays=(500.0,)) as ours:
        await hears(broker, until)
        async with broker.connected() as connection:
            exchange = await (await connection.channel()).get_exchange(EXCHANGE)
            for message in spoilt.values():
                await exchange.publish(message, TYPE)
        await publish(broker, placed("good"))
        await holds(broker, until, len(spoilt), PARKED)
        await has_effects(database, until, "good")
        assert ours.handler.begun == ["good"]
        assert [type(error) for error in ours.errors] == [Parked] * len(spoilt)
    assert sorted(await heard(broker, PARKED)) == sorted(spoilt)


async def test_an_event_without_an_id_of_its_own_is_told_from_no_other_and_parked(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with ran(database.url, broker.url, delays=(500.0,)) as ours:
        await hears(broker, until)
        async with broker.connected() as connection:
            channel = await connection.channel()
            underlay = await channel.get_underlay_channel()
            await underlay.basic_publish(b"{}", exchange=EXCHANGE, routing_key=TYPE)  # the client gives it one
        await until(lambda: asyncio.sleep(0, bool(ours.errors)))
        assert ours.handler.begun == []


async def test_prefetch_bounds_what_is_at_work_and_a_subject_waits_its_turn(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with ran(database.url, broker.url, prefetch=3) as ours:
        handler = ours.handler
        handler.open.clear()
        await hears(broker, until)
        await publish(broker, placed("a1", "a"), placed("a2", "a"), placed("b1", "b"), placed("c1", "c"))
        await until(lambda: asyncio.sleep(0, handler.inside == {"a1", "b1"}))
        await holds(broker, until, 1)
        assert handler.inside == {"a1", "b1"}, "the second of a subject did not wait, or more than three are at work"
        handler.open.set()
        await has_effects(database, until, "a1", "a2", "b1", "c1")
    assert handler.begun[:2] == ["a1", "b1"]


PROCESS = """
import asyncio, os, sys
from faultline.patterns import Consumer

async def handle(tx, event):
    if event.id == "deadly":
        os._exit(1)
    await tx.execute("INSERT INTO effect (id) VALUES (%s)", [event.id])

async def main():
    dsn, amqp = sys.argv[1:]
    settings = {"queue": "mails", "exchange": "events", "delays": (0.2, 0.4), "deliveries": 2, "prefetch": 1}
    async with Consumer(dsn, amqp, handlers={"orders.placed": handle}, **settings) as consumer:
        await consumer.run(on_error=print)

asyncio.run(main())
"""


@asynccontextmanager
async def consumer_process(dsn: str, amqp: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", PROCESS, dsn, amqp])  # noqa: ASYNC220
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("when", ["before the commit", "between commit and acknowledgement"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_consumer_that_is_killed_around_the_commit_takes_effect_once(
    database: Instance, broker: Broker, until: Until, when: str, end: signal.Signals
) -> None:
    async with (
        FaultProxy(database.host, database.port, protocol="postgres") as cable,
        FaultProxy(broker.server.host, broker.server.port) as way,
        consumer_process(through(cable, database), through(way, broker)) as process,
    ):
        await hears(broker, until)
        hold = cable.hold if when == "before the commit" else cable.hold_reply
        commit = hold(named("COMMIT"))
        await publish(broker, placed("a"))
        await commit.reached(20)
        assert await effects(database) == ([] if when == "before the commit" else ["a"])
        assert await broker.ready_messages(QUEUE) == 0, "acknowledged or given back too early"
        process.send_signal(end)
        await cable.sever()  # what is held never arrives
        await way.sever()  # a process that stands still looks to both servers, after their patience, like a dead one
        async with ran(database.url, broker.url, deliveries=2) as next_one:
            await publish(broker, placed("b"))
            await has_effects(database, until, "a", "b")
            assert next_one.handler.begun == (["a", "b"] if when == "before the commit" else ["b"])
    assert await effects(database) == ["a", "b"]
    assert [await unsettled(broker), await heard(broker, PARKED)] == [[], []]


async def test_what_ends_its_consumer_each_time_is_parked_by_the_broker(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with consumer_process(database.url, broker.url) as first:
        await hears(broker, until)
        await publish(broker, placed("deadly"), placed("good"))
        await asyncio.to_thread(first.wait)
    for _ in range(2):
        async with consumer_process(database.url, broker.url) as again:
            assert await asyncio.to_thread(again.wait) == 1
    async with consumer_process(database.url, broker.url):
        await has_effects(database, until, "good")
        await holds(broker, until, 1, PARKED)
    async with broker.connected() as connection:
        parked = await (await (await connection.channel()).get_queue(PARKED)).get(no_ack=True)
    assert parked.message_id == "deadly"
    assert "delivery_limit" in str(parked.headers)


@pytest.mark.slow
async def test_a_broker_that_is_killed_costs_nothing_but_time(database: Instance, tmp_path: Path, until: Until) -> None:
    async with own_rabbitmq(tmp_path) as (server, broker):
        await declare_exchange(broker)
        async with ran(database.url, broker.url, prefetch=1) as ours:
            await hears(broker, until)
            await declare(broker, "younger", **{"x-queue-type": "quorum"})  # why: delay_ladder.py
            ours.handler.open.clear()
            await publish(broker, placed("a"), placed("b"))
            await until(lambda: asyncio.sleep(0, ours.handler.inside == {"a"}))
            await server.kill()
            await until(lambda: asyncio.sleep(0, not ours.handler.inside))
            ours.handler.open.set()
            await server.start()
            await hears(broker, until)
            await publish(broker, placed("c"))
            await has_effects(database, until, "a", "b", "c")
            assert ours.handler.begun == ["a", "a", "b", "c"]
            assert ours.errors
        assert await effects(database) == ["a", "b", "c"]
        assert [await unsettled(broker), await heard(broker, PARKED)] == [[], []]


async def test_a_database_that_is_away_is_no_fault_of_a_message(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with ran(database.url, broker.url, delays=(0.01,)) as ours:
        await hears(broker, until)
        ours.handler.open.clear()
        await publish(broker, placed("a"))
        await until(lambda: asyncio.sleep(0, ours.handler.inside))
        await database.kill()
        ours.handler.open.set()
        await publish(broker, placed("b"))
        await until(lambda: asyncio.sleep(0, len(ours.errors) >= 6))
        await database.start()
        await has_effects(database, until, "a", "b")
        assert {type(error) for error in ours.errors} == {Away}
        assert all(isinstance(error.__cause__, psycopg.OperationalError) for error in ours.errors)
    assert await effects(database) == ["a", "b"]
    assert [await unsettled(broker), await heard(broker, PARKED)] == [[], []]


async def test_a_deadlock_is_the_handlers_and_goes_up_the_ladder(
    database: Instance, broker: Broker, until: Until
) -> None:
    async def lose(tx: Tx, event: Event) -> None:
        await tx.execute("DO $$ BEGIN RAISE deadlock_detected; END $$")

    errors: list[Exception] = []
    consumer = Consumer(
        database.url, broker.url, queue=QUEUE, exchange=EXCHANGE, handlers={TYPE: lose}, delays=(500.0,)
    )
    async with consumer:
        running = asyncio.create_task(consumer.run(on_error=errors.append))
        await hears(broker, until)
        await publish(broker, placed("a"))
        await holds(broker, until, 1, f"{QUEUE}.retry.500s")
        running.cancel()
        await asyncio.wait([running])
    assert [type(error) for error in errors] == [psycopg.errors.DeadlockDetected]


async def test_cancelled_it_ends_what_is_at_work_before_another_gets_the_rest(
    database: Instance, broker: Broker, until: Until
) -> None:
    theirs = Handler()
    taken = asyncio.Event()

    async def told(tx: Tx, event: Event) -> None:
        taken.set()
        await theirs(tx, event)

    other = Consumer(database.url, broker.url, queue=QUEUE, exchange=EXCHANGE, handlers={TYPE: told}, delays=(0.2, 0.4))
    async with ran(database.url, broker.url, farewell=60.0) as ours, other:
        await hears(broker, until)
        waiting = asyncio.create_task(other.run(on_error=print))

        async def both_subscribed() -> bool:
            return len(await broker.server.manage("GET", f"consumers/{broker.vhost}")) == 2

        await until(both_subscribed)
        ours.handler.open.clear()
        await publish(broker, placed("a"), placed("b"))
        await until(lambda: asyncio.sleep(0, ours.handler.inside == {"a"}))
        ours.task.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):  # long enough to see it, if it happened
                await taken.wait()
        assert not ours.task.done()
        ours.handler.open.set()
        await asyncio.wait([ours.task])
        await has_effects(database, until, "b")
        waiting.cancel()
        await asyncio.wait([waiting])
    assert (ours.handler.begun, theirs.begun) == (["a"], ["b"])
    assert await effects(database) == ["a", "b"]
    assert await unsettled(broker) == []


async def test_cancelled_it_waits_no_longer_than_its_farewell(database: Instance, broker: Broker, until: Until) -> None:
    async with ran(database.url, broker.url, farewell=0.1) as ours:
        await hears(broker, until)
        ours.handler.open.clear()
        await publish(broker, placed("a"), placed("b"))
        await until(lambda: asyncio.sleep(0, ours.handler.inside == {"a"}))
        ours.task.cancel()
        async with asyncio.timeout(15):
            await asyncio.wait([ours.task])
        assert ours.handler.inside == set()
    assert await effects(database) == []
    await holds(broker, until, 2)
    assert await unsettled(broker) == ["a", "b"]


async def test_a_subscription_that_the_broker_ends_is_made_anew(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with ran(database.url, broker.url) as ours:
        await hears(broker, until)
        async with broker.connected() as connection:
            await (await connection.channel()).queue_delete(QUEUE)
        await until(lambda: asyncio.sleep(0, bool(ours.errors)))
        await hears(broker, until)
        await publish(broker, placed("a"))
        await has_effects(database, until, "a")
        assert "subscription" in str(ours.errors[0])


async def test_a_copy_whose_confirm_is_lost_makes_two_of_which_one_has_an_effect(
    database: Instance, broker: Broker, until: Until
) -> None:
    async with (
        FaultProxy(broker.server.host, broker.server.port) as way,
        ran(database.url, through(way, broker), timeout=1.0, delays=(0.5,)) as ours,
    ):
        await hears(broker, until)
        ours.handler.open.clear()
        ours.handler.failing = {"a": 1}
        await publish(broker, placed("a"))
        await until(lambda: asyncio.sleep(0, ours.handler.inside))
        silence = way.add(BlackHole(), Direction.TO_CLIENT)
        ours.handler.open.set()
        await until(lambda: asyncio.sleep(0, bool(ours.errors)))
        assert silence.hits
        way.remove(silence)
        await has_effects(database, until, "a")

        await until(lambda: asyncio.sleep(0, len(ours.handler.begun) >= 2))
        await holds(broker, until, 0, f"{QUEUE}.retry.0.5s")
    assert await unsettled(broker) == []
    assert await effects(database) == ["a"]


async def test_what_can_be_put_nowhere_is_not_acknowledged(database: Instance, broker: Broker, until: Until) -> None:
    async with ran(database.url, broker.url, delays=(0.01,)) as ours:
        await hears(broker, until)
        ours.handler.failing = {"a": 1}
        async with broker.connected() as connection:
            await (await connection.channel()).queue_delete(f"{QUEUE}.retry.0.01s")
        await publish(broker, placed("a"))
        await has_effects(database, until, "a")
        assert any(isinstance(error, DeliveryError) for error in ours.errors)
    assert [await unsettled(broker), await heard(broker, PARKED)] == [[], []]
