"""How a service hears what others say, and what becomes of what it cannot hear; on a real broker and database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from aio_pika import Message
from tests.patterns.outbox_ground import through
from tests.shop.conftest import until

from faultline.components import Supervisor
from faultline.components.faults import BlackHole
from faultline.components.proxy import FaultProxy
from faultline.patterns import Away, Consumer, Outbox
from faultline.shop import messages
from faultline.shop.contracts import Capture, Money, ProductRetired, Said, said
from faultline.shop.logs import request_id
from faultline.testbed.rabbitmq import Broker, RabbitServer

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("shop_messages"),
]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RETIRED = ProductRetired.type


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder = tmp_path_factory.mktemp("messages")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with Supervisor(folder) as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        async with await psycopg.AsyncConnection.connect(server.url) as connection:
            for table in ("outbox", "command"):
                await Outbox(table).create(connection)
            await connection.execute("CREATE TABLE effect (sku text NOT NULL, request text NOT NULL)")
        yield server.url


@pytest_asyncio.fixture(loop_scope="module")
async def broker(shared_broker: tuple[str, int, int], database: str) -> AsyncIterator[Broker]:
    async with RabbitServer(*shared_broker).vhost("messages") as broker:
        yield broker
    await execute(database, "TRUNCATE outbox, command, effect; DROP TABLE IF EXISTS inbox")


@asynccontextmanager
async def running(*works: Awaitable[object]) -> AsyncIterator[list["asyncio.Task[object]"]]:
    """All of them at work, as in a service."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield tasks  # type: ignore[misc]  # pyright: ignore[reportReturnType]
        assert not any(task.done() and not task.cancelled() for task in tasks), "one has ended by itself"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def execute(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def retire(dsn: str, *skus: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for sku in skus:
            event = ProductRetired(sku=sku, version=1)
            await Outbox().append(connection, said(event, subject=sku, sequence=1, time=NOW, correlation="asked"))


async def ready(ears: messages.Ears) -> bool:
    try:
        await ears.ready()
    except ConnectionError:
        return False
    return True


async def lies_in(broker: Broker, queue: str, count: int = 1) -> None:
    async def there() -> bool:
        return await broker.ready_messages(queue) == count

    await until(there)


async def note(tx: psycopg.AsyncConnection, event: Said) -> None:
    assert isinstance(event.data, ProductRetired)
    await tx.execute("INSERT INTO effect VALUES (%s, %s)", [event.data.sku, request_id.get()])


async def test_of_two_who_consume_both_are_ready_and_one_takes_over(database: str, broker: Broker) -> None:
    first, second = messages.Ears(), messages.Ears()

    def consumed(ears: messages.Ears) -> Awaitable[object]:
        return messages.consume(broker.url, database, queue="shop", handlers={RETIRED: note}, ears=ears)

    async def has(*skus: str) -> bool:
        return sorted(await execute(database, "SELECT * FROM effect")) == [(sku, "asked") for sku in skus]

    async with running(consumed(first), consumed(second), messages.relay(broker.url, database)) as tasks:
        await until(lambda: ready(first))
        await until(lambda: ready(second))
        await retire(database, "a", "b")
        await until(lambda: has("a", "b"))
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert not await ready(first)
        await retire(database, "c")
        await until(lambda: has("a", "b", "c"))
        assert await ready(second)


async def test_who_has_lost_one_of_its_queues_is_not_ready_until_it_is_back(database: str, broker: Broker) -> None:
    async def keep(_: Said) -> None: ...

    async def deaf() -> bool:
        return not await ready(ears)

    ears = messages.Ears()
    assert await deaf()
    async with FaultProxy(broker.server.host, broker.server.port) as way:
        silence = way.add(BlackHole())
        far = messages.consume(through(way, broker), database, queue="far", handlers={RETIRED: note}, ears=ears)
        async with running(messages.hear(broker.url, queue="near", handlers={RETIRED: keep}, ears=ears)):
            await until(lambda: ready(ears))
            async with running(far):
                await until(deaf)
                for _ in range(2):
                    way.remove(silence)
                    await way.sever()
                    await until(lambda: ready(ears))
                    silence = way.add(BlackHole())
                    await way.sever()
                    await until(deaf)
            await until(lambda: ready(ears))


async def hear_badly(broker: Broker, *bodies: bytes) -> None:
    async with broker.connected() as connection:
        exchange = await (await connection.channel()).get_exchange(messages.EVENTS)
        for body in bodies:
            await exchange.publish(Message(body, message_id="bad", type=RETIRED, headers={"subject": "a"}), RETIRED)


async def test_what_breaks_its_contract_is_parked_at_once(database: str, broker: Broker) -> None:
    ears = messages.Ears()
    asked: list[Said] = []

    async def keep(event: Said) -> None:
        asked.append(event)

    async with running(
        messages.consume(broker.url, database, queue="one", handlers={RETIRED: note}, ears=ears),
        messages.hear(broker.url, queue="two", handlers={RETIRED: keep}, ears=ears),
    ):
        await until(lambda: ready(ears))
        await hear_badly(broker, b'{"sku": 1, "version": 1}')
        for queue in ("one.parked", "two.parked"):
            await lies_in(broker, queue)
            async with broker.connected() as connection:
                parked = await (await (await connection.channel()).get_queue(queue)).get(no_ack=True)
            assert "Expected `str`, got `int`" in str(parked.headers["x-reason"])
    assert not asked


async def test_who_says_that_something_is_away_is_asked_again_and_nothing_is_put_off(
    database: str, broker: Broker
) -> None:
    ears = messages.Ears()
    asked: list[str] = []

    async def forget(event: Said) -> None:
        asked.append(event.headers["subject"])
        if asked.count("a") < 3:
            raise Away("no Redis")
        if asked.count("a") < 4:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    async with running(
        messages.hear(broker.url, queue="shop", handlers={RETIRED: forget}, ears=ears),
        messages.relay(broker.url, database),
    ):
        await until(lambda: ready(ears))
        await retire(database, "a")
        await until(lambda: asyncio.sleep(0, len(asked) == 4))
    assert [await broker.ready_messages(queue) for queue in ("shop", "shop.retry.1s", "shop.parked")] == [0, 0, 0]


async def test_what_has_left_or_was_seen_is_forgotten_in_time_and_nothing_before(database: str, broker: Broker) -> None:
    await retire(database, "old", "sent", "waits")
    await execute(database, "UPDATE outbox SET sent_at = now() - interval '25 hours' WHERE subject = 'old'")
    await execute(database, "UPDATE outbox SET sent_at = now() - interval '23 hours' WHERE subject = 'sent'")
    await execute(database, "UPDATE outbox SET written_at = now() - interval '25 hours'")

    async def left() -> bool:
        rows = await execute(database, "SELECT subject FROM outbox WHERE sent_at IS NOT NULL ORDER BY subject")
        return rows == [("sent",), ("waits",)]

    async with Consumer(database, broker.url, queue="shop", exchange="", handlers={"-": note}) as consumer:  # type: ignore[dict-item]  # pyright: ignore
        await consumer.forget(1.0)
    for days in (6, 8):
        await execute(database, f"INSERT INTO inbox VALUES ('shop', '{days}', now() - interval '{days} days')")

    async def remembered() -> bool:
        return await execute(database, "SELECT message_id FROM inbox") == [("6",)]

    ears = messages.Ears()
    async with running(
        messages.relay(broker.url, database),
        messages.consume(broker.url, database, queue="shop", handlers={"catalog.-": note}, ears=ears),
    ):
        await until(left)
        await until(remembered)


async def test_a_command_waits_for_who_carries_it_out_and_holds_up_nobody_else(database: str, broker: Broker) -> None:
    carried_out: list[str] = []

    async def carry_out(command: Said) -> None:
        assert isinstance(command.data, Capture)
        carried_out.append(command.data.order)

    async with running(messages.relay(broker.url, database, exchange=messages.COMMANDS, table="command")):
        async with await psycopg.AsyncConnection.connect(database) as connection:
            capture = Capture(order="o", amount=Money(1), until=NOW)
            event = said(capture, subject="o", sequence=1, time=NOW, correlation="", source="orders")
            await Outbox("command").append(connection, event)
        ears = messages.Ears()
        heard = {Capture.type: carry_out}
        hearing = messages.hear(
            broker.url, queue="payment.commands", handlers=heard, ears=ears, exchange=messages.COMMANDS
        )
        async with running(hearing):
            await until(lambda: asyncio.sleep(0, carried_out == ["o"]))
