"""What an outbox and its relays promise, on a real PostgreSQL and a real RabbitMQ."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import aio_pika
import psycopg
import pytest
from tests.patterns.outbox_ground import OUTBOX, database_with_outbox, event, heard, say, virtual_host

from faultline.patterns import NoTransaction, OutboxLag, Relay, Undelivered
from faultline.testbed.rabbitmq import RabbitServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.patterns.conftest import Until

    from faultline.testbed.rabbitmq import Broker

pytestmark = [pytest.mark.once, pytest.mark.timeout(240), pytest.mark.xdist_group("broker")]


@pytest.fixture
async def broker(shared_broker: tuple[str, int, int]) -> AsyncIterator[Broker]:
    async with virtual_host(RabbitServer(*shared_broker)) as broker:
        yield broker


@pytest.fixture
async def dsn(tmp_path: Path) -> AsyncIterator[str]:
    async with database_with_outbox(tmp_path) as server:
        yield server.url


async def test_what_was_committed_leaves_once_and_what_was_not_never(dsn: str, broker: Broker) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection, Relay(dsn, broker.url) as relay:
        await OUTBOX.append(connection, event("kept"))
        assert await relay.run_once() == 0
        await connection.commit()
        await OUTBOX.append(connection, event("undone"))
        await connection.rollback()
        assert (await relay.lag()).events == 1
        assert [await relay.run_once(), await relay.run_once()] == [1, 0]
        assert await relay.lag() == OutboxLag(0, 0.0)
        assert [await relay.forget(3600), await relay.forget(0), await relay.forget(0)] == [0, 1, 0]
    assert await heard(broker) == ["kept"]


async def test_a_message_is_durable_and_carries_its_envelope(dsn: str, broker: Broker) -> None:
    await say(dsn, event("a"))
    async with Relay(dsn, broker.url) as relay, broker.connected() as connection:
        await relay.run_once()
        message = await (await (await connection.channel()).get_queue("said")).get(no_ack=True)
    assert (message.body, message.type, message.delivery_mode) == (b'{"name": "a"}', "said", 2)
    assert message.headers == {"traceparent": "00-1", "subject": "order-1"}


async def test_an_event_outside_of_a_transaction_is_refused(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        with pytest.raises(NoTransaction):
            await OUTBOX.append(connection, event("a"))
        async with connection.transaction():
            await OUTBOX.append(connection, event("a"))


async def test_order_holds_though_the_later_writer_began_first_and_another_is_still_open(
    dsn: str, broker: Broker
) -> None:
    connect = psycopg.AsyncConnection.connect
    async with await connect(dsn) as early, await connect(dsn) as late, await connect(dsn) as other:
        for connection in (late, other, early):  # in this order they get their transaction numbers
            await connection.execute("SELECT pg_current_xact_id()")
        await OUTBOX.append(other, event("open", "order-2"))
        await OUTBOX.append(early, event("first"))
        await early.commit()
        await OUTBOX.append(late, event("second"))
        await late.commit()
        async with Relay(dsn, broker.url, batch=1) as relay:
            assert await relay.run_once() == 2
            await other.commit()  # its position is lower than what was sent
            assert await relay.run_once() == 1
    assert await heard(broker) == ["first", "second", "open"]


async def test_writers_and_relays_at_once_lose_nothing_double_nothing_and_keep_order(dsn: str, broker: Broker) -> None:
    writing = True

    async def write(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            for count in range(50):
                await OUTBOX.append(connection, event(f"{number}:{count}", f"order-{number}"))
                await asyncio.sleep(0)  # so that positions are committed out of order
                await connection.commit()

    async def carry() -> None:
        async with Relay(dsn, broker.url, batch=7) as relay:
            while await relay.run_once() or writing or (await relay.lag()).events:
                pass

    async with asyncio.TaskGroup() as relays:
        for _ in range(3):
            relays.create_task(carry())
        await asyncio.gather(*(write(number) for number in range(8)))
        writing = False
    ids = await heard(broker)
    assert len(ids) == 400
    for number in range(8):
        assert [one for one in ids if one.startswith(f"{number}:")] == [f"{number}:{count}" for count in range(50)]


async def test_what_nobody_hears_stays_and_holds_up_its_subject_only(dsn: str, broker: Broker) -> None:
    await say(dsn, event("a", to="nobody"), event("b"), event("c", "order-2"), event("d", "order-2"))
    async with Relay(dsn, broker.url, batch=1) as relay:
        with pytest.raises(Undelivered, match="order-1: nobody a") as refused:
            await relay.run_once()
        assert (refused.value.sent, await heard(broker)) == (2, ["c", "d"])
        async with broker.connected() as connection:
            await (await connection.channel()).declare_queue("nobody")
        assert await relay.run_once() == 2
    assert (await heard(broker, "nobody"), await heard(broker)) == (["a"], ["b"])


RELAY = """
import asyncio, sys
from faultline.patterns import Relay

async def main():
    async with Relay(sys.argv[1], sys.argv[2], batch=5) as relay:
        print("up", flush=True)
        await relay.run(on_error=print, every=0.001)

asyncio.run(main())
"""


async def test_relays_killed_anywhere_lose_nothing_and_keep_the_order_of_first_deliveries(
    dsn: str, broker: Broker, until: Until
) -> None:
    await say(dsn, *(event(f"{count % 3}:{count // 3:03}", f"order-{count % 3}") for count in range(600)))
    for stop in (20, 100, 200):
        process = subprocess.Popen([sys.executable, "-c", RELAY, dsn, broker.url], stdout=subprocess.PIPE)  # noqa: ASYNC220
        try:
            async with Relay(dsn, broker.url) as watch:

                async def got_there(watch: Relay = watch, stop: int = stop) -> bool:
                    return (await watch.lag()).events <= 600 - stop

                await until(got_there)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    async with Relay(dsn, broker.url) as relay:
        assert (await relay.lag()).events > 0

        async def all_sent() -> bool:
            await relay.run_once()  # 0 until the server has seen that the last one is dead
            return (await relay.lag()).events == 0

        await until(all_sent)
    first = list(dict.fromkeys(await heard(broker)))
    assert len(first) == 600
    for number in range(3):
        assert [one for one in first if one[0] == str(number)] == [f"{number}:{count:03}" for count in range(200)]


STOPPED = """
import asyncio, sys
from faultline.patterns import Relay

async def main():
    async with Relay(sys.argv[1], sys.argv[2], timeout=0.9, lease=1.0) as relay:
        await relay.run(on_error=print)

asyncio.run(main())
"""


async def test_a_relay_that_stops_while_it_has_its_turn_loses_it(dsn: str, broker: Broker, until: Until) -> None:
    await say(dsn, event("a"))
    called = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        url = f"amqp://guest:guest@127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        process = subprocess.Popen([sys.executable, "-c", STOPPED, dsn, url], stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        try:
            async with asyncio.timeout(20):
                await called.wait()
            process.send_signal(signal.SIGSTOP)
            async with Relay(dsn, broker.url) as relay:

                async def taken_over() -> bool:
                    return await relay.run_once() == 1

                await until(taken_over)
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate()
    assert await heard(broker) == ["a"]


async def test_after_an_error_it_connects_anew_and_holds_nothing(dsn: str, broker: Broker) -> None:
    await say(dsn, event("a"))
    async with Relay(dsn, broker.url, exchange="events") as relay:
        with pytest.raises(aio_pika.exceptions.AMQPError):
            await relay.run_once()
        async with broker.connected() as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange("events", "topic", durable=True)
            await (await channel.get_queue("said")).bind(exchange, "#")
        assert await relay.run_once() == 1
        await say(dsn, event("b"))
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
            await other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        assert await relay.run_once() == 1
    assert await heard(broker) == ["a", "b"]
