"""What a relay promises when the broker, the database, the network or the relay itself fails."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.patterns.outbox_ground import (
    OUTBOX,
    database_with_outbox,
    declare,
    event,
    heard,
    own_rabbitmq,
    say,
    through,
    virtual_host,
)

from faultline.components.faults import BlackHole, Cut, Direction, Reset
from faultline.components.proxy import FaultProxy
from faultline.patterns import Event, Relay, Undelivered
from faultline.testbed.rabbitmq import RabbitServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aio_pika.abc import AbstractChannel
    from tests.patterns.conftest import Until

    from faultline.components import Instance
    from faultline.testbed.rabbitmq import Broker

pytestmark = [pytest.mark.once, pytest.mark.timeout(240), pytest.mark.xdist_group("broker")]


@pytest.fixture
async def broker(shared_broker: tuple[str, int, int]) -> AsyncIterator[Broker]:
    async with virtual_host(RabbitServer(*shared_broker)) as broker:
        yield broker


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Instance]:
    async with database_with_outbox(tmp_path) as server:
        yield server


@pytest.fixture
def dsn(database: Instance) -> str:
    return database.url


@pytest.fixture
async def way(broker: Broker) -> AsyncIterator[FaultProxy]:
    """Between relay and broker."""
    async with FaultProxy(broker.server.host, broker.server.port) as proxy:
        yield proxy


@asynccontextmanager
async def running(relay: Relay, errors: list[Exception]) -> AsyncIterator[asyncio.Task[None]]:
    """The relay in its loop, for the block."""
    task = asyncio.create_task(relay.run(on_error=errors.append, every=0.01))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def emptied(relay: Relay, until: Until) -> None:
    async def nothing_waits() -> bool:
        return (await relay.lag()).events == 0

    await until(nothing_waits)


async def as_soon_as_may(relay: Relay) -> int:
    """A pass that delivers: the server may notice only a moment later that the session before it, and its turn, end."""
    async with asyncio.timeout(20):
        while not (sent := await relay.run_once()):  # noqa: ASYNC110 - a server calls nobody back
            await asyncio.sleep(0.002)
    return sent


def firsts(ids: list[str]) -> list[str]:
    """As an inbox sees them."""
    return list(dict.fromkeys(ids))


@pytest.mark.slow
async def test_a_broker_killed_between_publish_and_confirm_loses_nothing_and_the_loop_goes_on(
    dsn: str, tmp_path: Path, until: Until
) -> None:
    errors: list[Exception] = []
    async with own_rabbitmq(tmp_path) as (server, broker), FaultProxy(server.host, server.port) as way:
        async with Relay(dsn, through(way, broker), timeout=50, lease=60) as relay, running(relay, errors):
            await say(dsn, event("a"))
            await emptied(relay, until)
            confirms = way.add(BlackHole(), Direction.TO_CLIENT)
            await say(dsn, event("b"))

            async def published() -> bool:
                return confirms.hits > 0 and await broker.ready_messages("said") == 2

            await until(published)
            assert (await relay.lag()).events == 1, "marked, and nobody has confirmed it"
            await server.kill()
            way.remove(confirms)
            assert (await relay.lag()).events == 1
            await server.start()
            await emptied(relay, until)
        assert errors
        ids = await heard(broker)
    assert firsts(ids) == ["a", "b"]
    assert ids[-1] == "b"


async def test_the_loop_goes_on_when_the_database_comes_back(database: Instance, broker: Broker, until: Until) -> None:
    errors: list[Exception] = []
    async with Relay(database.url, broker.url) as relay, running(relay, errors):
        await say(database.url, event("a"))
        await emptied(relay, until)
        await database.kill()
        await until(lambda: asyncio.sleep(0, len(errors) >= 2))
        await database.start()
        await say(database.url, event("b"))
        await emptied(relay, until)
    assert all(isinstance(error, psycopg.OperationalError) for error in errors)
    assert await heard(broker) == ["a", "b"]


@pytest.mark.parametrize("direction", [Direction.TO_SERVER, Direction.TO_CLIENT])
async def test_a_silent_broker_costs_the_timeout_and_nothing_is_marked(
    dsn: str, broker: Broker, way: FaultProxy, direction: Direction
) -> None:
    clock = asyncio.get_running_loop().time
    async with Relay(dsn, through(way, broker), timeout=0.5) as relay:
        await say(dsn, event("a"))
        assert await relay.run_once() == 1
        await say(dsn, event("b"))
        silence = way.add(BlackHole(), direction)
        for _ in ("publishing", "connecting"):
            begun, hits = clock(), silence.hits
            with pytest.raises(TimeoutError):
                await as_soon_as_may(relay)
            assert 0.5 <= clock() - begun < 15
            assert silence.hits > hits
            assert (await relay.lag()).events == 1
        way.remove(silence)
        assert await as_soon_as_may(relay) == 1
    assert firsts(await heard(broker)) == ["a", "b"]


async def test_what_was_confirmed_before_the_break_is_not_sent_again(dsn: str, broker: Broker, way: FaultProxy) -> None:
    async with Relay(dsn, through(way, broker)) as relay:
        await say(dsn, event("first"))
        await relay.run_once()
        await say(dsn, *(event(f"{number:02}") for number in range(50)))
        cut = way.add(Cut(after=400))  # a confirm has 21 bytes
        with pytest.raises(Exception):  # noqa: B017, PT011 - whichever the client makes of it
            await relay.run_once()
        way.remove(cut)
        left = (await relay.lag()).events
        assert cut.hits
        assert 0 < left < 50
        assert await as_soon_as_may(relay) == left
    ids = await heard(broker)
    assert firsts(ids) == ["first", *(f"{number:02}" for number in range(50))]
    assert len(ids) <= 52, "more than the one that was on its way was sent again"


async def test_what_the_broker_refuses_waits_for_room_and_holds_up_its_subject_only(dsn: str, broker: Broker) -> None:
    await declare(broker, "full", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    await say(dsn, event("a", to="full"), event("b", to="full"), event("c"), event("d", "order-2"))
    async with Relay(dsn, broker.url) as relay:
        with pytest.raises(Undelivered, match="order-1: full b") as refused:
            await relay.run_once()
        assert (refused.value.sent, (await relay.lag()).events) == (2, 2)
        assert (await heard(broker), await heard(broker, "full")) == (["d"], ["a"])
        assert await relay.run_once() == 2
    assert (await heard(broker), await heard(broker, "full")) == (["c"], ["b"])


async def test_a_poisonous_event_slows_down_nobody_else(dsn: str, broker: Broker, until: Until) -> None:
    errors: list[Exception] = []
    async with Relay(dsn, broker.url) as relay, running(relay, errors):
        await say(dsn, event("returned", "order-2", to="nobody"))
        async with await psycopg.AsyncConnection.connect(dsn) as other:  # written by whoever knows no `append`
            await other.execute(
                "INSERT INTO outbox (id, type, subject, data, headers)"
                """ VALUES ('unsayable', 'said', 'order-3', '{}', '{"n": 1000000000000000000000000}')"""
            )
        await until(lambda: asyncio.sleep(0, bool(errors)))
        for number in range(30):
            await say(dsn, event(f"{number}"))

            async def sent() -> bool:
                return (await relay.lag()).events == 2

            await until(sent)
        told = len(errors)
        assert {type(error) for error in errors} == {Undelivered}
        assert told < 20, f"{told} tries to deliver what cannot be delivered, in 30 rounds"
        await declare(broker, "nobody")

        async def delivered() -> bool:
            return (await relay.lag()).events == 1

        await until(delivered)
    assert "order-3" in " ".join(map(str, errors))
    assert await heard(broker) == [str(number) for number in range(30)]
    assert await heard(broker, "nobody") == ["returned"]


async def test_what_no_message_has_room_for_is_refused_before_it_is_written(dsn: str, broker: Broker) -> None:
    largest = Event(
        id="i" * 255, type="said", subject="s" * 32_000, data={"": "d" * 16_000_000}, headers={"h" * 255: "v" * 32_000}
    )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for bad in (
            Event(id="", type="said", subject="s", data={}),
            Event(id="i", type="", subject="s", data={}),
            Event(id="i", type="said", subject="", data={}),
            Event(id="ä" * 128, type="said", subject="s", data={}),
            Event(id="i", type="t" * 256, subject="s", data={}),
            Event(id="i", type="said", subject="s", data={}, headers={"h" * 256: ""}),
            Event(id="i", type="said", subject="s", data={}, headers={"h": "v" * 66_000}),
            Event(id="i", type="said", subject="s" * 66_000, data={}),
            Event(id="i", type="said", subject="s", data={"": "d" * 17_000_000}),
        ):
            with pytest.raises(ValueError, match=r"no event|room|fit"):
                await OUTBOX.append(connection, bad)
        await OUTBOX.append(connection, largest)
    async with Relay(dsn, broker.url, timeout=50, lease=60) as relay:
        assert await relay.run_once() == 1
    assert await heard(broker) == ["i" * 255]


@pytest.mark.parametrize("direction", [Direction.TO_SERVER, Direction.TO_CLIENT])
async def test_cancelled_in_mid_publish_nothing_is_lost_marked_or_held(
    dsn: str, broker: Broker, way: FaultProxy, until: Until, direction: Direction
) -> None:
    async with Relay(dsn, through(way, broker), timeout=50, lease=60) as relay, Relay(dsn, broker.url) as other:
        await say(dsn, event("a"))
        assert await relay.run_once() == 1
        await say(dsn, event("b"))
        silence = way.add(BlackHole(), direction)
        publishing = asyncio.create_task(relay.run(on_error=print))
        await until(lambda: asyncio.sleep(0, silence.hits))
        assert await other.run_once() == 0, "two have their turn"
        publishing.cancel()
        async with asyncio.timeout(15):
            await asyncio.wait([publishing])
        assert publishing.cancelled()
        assert (await relay.lag()).events == 1
        assert await as_soon_as_may(other) == 1
    way.heal()
    assert await heard(broker) == (["a", "b"] if direction is Direction.TO_SERVER else ["a", "b", "b"])


PROCESS = """
import asyncio, sys
from faultline.patterns import Relay

async def main():
    dsn, amqp, timeout, lease = sys.argv[1:]
    async with Relay(dsn, amqp, timeout=float(timeout), lease=float(lease)) as relay:
        await relay.run(on_error=lambda error: print(repr(error), flush=True), every=0.01)

asyncio.run(main())
"""


@asynccontextmanager
async def relay_process(dsn: str, amqp: str, *, timeout: float, lease: float) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PROCESS, dsn, amqp, str(timeout), str(lease)], stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_relay_killed_while_it_has_its_turn_loses_it_at_once(
    dsn: str, broker: Broker, way: FaultProxy, until: Until
) -> None:
    async with (
        relay_process(dsn, through(way, broker), timeout=500, lease=600) as process,
        Relay(dsn, broker.url) as next_one,
    ):
        await say(dsn, event("a"))
        await emptied(next_one, until)
        silence = way.add(BlackHole(), Direction.TO_SERVER)
        await say(dsn, event("b"))
        await until(lambda: asyncio.sleep(0, silence.hits))
        assert await next_one.run_once() == 0, "it did not have its turn"
        process.kill()

        async def taken_over() -> bool:
            return await next_one.run_once() == 1

        await until(taken_over)
    assert await heard(broker) == ["a", "b"]


async def test_a_relay_that_vanished_from_the_network_loses_its_turn_after_the_lease(
    database: Instance, broker: Broker, way: FaultProxy, until: Until
) -> None:
    async with (
        FaultProxy(database.host, database.port, protocol="postgres") as cable,
        relay_process(through(cable, database), through(way, broker), timeout=1.4, lease=1.5) as process,
        Relay(database.url, broker.url) as next_one,
    ):
        await say(database.url, event("a"))
        await emptied(next_one, until)
        silence = way.add(BlackHole())
        await say(database.url, event("b"))
        await until(lambda: asyncio.sleep(0, silence.hits))
        vanished = cable.add(BlackHole())
        process.kill()  # and no FIN of it arrives
        process.wait()
        assert await next_one.run_once() == 0, "it did not have its turn"

        async def taken_over() -> bool:
            return await next_one.run_once() == 1

        await until(taken_over)
        assert vanished.hits
    assert await heard(broker) == ["a", "b"]


async def test_a_relay_that_wakes_up_after_its_turn_sends_nothing_more_of_it(
    dsn: str, broker: Broker, way: FaultProxy, until: Until
) -> None:
    async with relay_process(dsn, through(way, broker), timeout=1.4, lease=1.5) as process:
        assert process.stdout
        async with Relay(dsn, broker.url) as next_one:
            await say(dsn, event("first"))
            await emptied(next_one, until)
            confirms = way.add(BlackHole(), Direction.TO_CLIENT)
            await say(dsn, event("a"), event("b"), event("c"))
            await until(lambda: asyncio.sleep(0, confirms.hits))
            process.send_signal(signal.SIGSTOP)
            assert await next_one.run_once() == 0, "it did not have its turn"

            async def taken_over() -> bool:
                return await next_one.run_once() == 3

            await until(taken_over)
            way.remove(confirms)
            process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(20):
                told = await asyncio.to_thread(process.stdout.readline)
        assert told, "it did not notice"
        async with Relay(dsn, broker.url) as watch:
            await say(dsn, event("d"))
            await emptied(watch, until)  # and it works again, by a turn of its own
    assert await heard(broker) == ["first", "a", "a", "b", "c", "d"]


async def test_a_turn_is_given_back_after_each_pass(dsn: str, broker: Broker) -> None:
    async with Relay(dsn, broker.url, lease=600) as one, Relay(dsn, broker.url, lease=600) as two:
        for name, relay in (("a", one), ("b", two), ("c", one)):
            await say(dsn, event(name))
            assert await relay.run_once() == 1, "the other has kept its turn"
    assert await heard(broker) == ["a", "b", "c"]


async def test_order_holds_under_concurrent_commits_two_relays_and_broken_connections(
    dsn: str, broker: Broker, way: FaultProxy, until: Until
) -> None:
    subjects, writers, each = 3, 4, 15
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute("CREATE TABLE aggregate (subject text PRIMARY KEY, version int NOT NULL)")
        await connection.execute("INSERT INTO aggregate SELECT n::text, 0 FROM generate_series(0, 2) n")

    async def write(subject: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            for _ in range(each):
                change = "UPDATE aggregate SET version = version + 1 WHERE subject = %s RETURNING version"
                row = await (await connection.execute(change, [str(subject)])).fetchone()
                assert row
                await OUTBOX.append(connection, event(f"{subject}:{row[0]}", str(subject)))
                await asyncio.sleep(0)
                await connection.commit()

    errors: list[Exception] = []
    breaks = way.add(Reset(after=1500), Direction.TO_CLIENT)  # of each connection: its greeting and some confirms
    amqp = through(way, broker)
    async with (
        Relay(dsn, amqp, batch=10) as one,
        Relay(dsn, amqp, batch=10) as two,
        running(one, errors),
        running(two, errors),
    ):
        await asyncio.gather(*(write(subject) for subject in range(subjects) for _ in range(writers)))
        await emptied(one, until)
    assert breaks.hits >= 2
    assert len(errors) >= 2
    first = firsts(await heard(broker))
    assert len(first) == subjects * writers * each
    for subject in map(str, range(subjects)):
        versions = [int(one.split(":")[1]) for one in first if one.split(":")[0] == subject]
        assert versions == list(range(1, writers * each + 1))


async def test_cleaning_up_under_load_takes_nothing_that_is_still_to_be_sent(
    dsn: str, broker: Broker, until: Until
) -> None:
    errors: list[Exception] = []
    forgotten, writing = 0, True

    async def write(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            for count in range(60):
                await OUTBOX.append(connection, event(f"{number}:{count}", f"order-{number}"))
                await asyncio.sleep(0)
                await connection.commit()

    async def clean(relay: Relay) -> None:
        nonlocal forgotten
        while writing or (await relay.lag()).events:
            gone = await relay.forget(0)
            forgotten += gone  # `+= await` would forget what the other one adds meanwhile

    async with Relay(dsn, broker.url, batch=7) as relay, running(relay, errors), asyncio.TaskGroup() as cleaners:
        for _ in range(2):
            cleaners.create_task(clean(relay))
        await asyncio.gather(*(write(number) for number in range(4)))
        writing = False
        await emptied(relay, until)
    async with Relay(dsn, broker.url) as relay:
        forgotten += await relay.forget(0)
    assert errors == []
    assert forgotten == 240
    assert sorted(await heard(broker)) == sorted(f"{number}:{count}" for number in range(4) for count in range(60))


async def test_it_makes_ready_what_it_sends_through_on_each_new_channel(dsn: str, broker: Broker) -> None:
    async def prepare(channel: AbstractChannel) -> None:
        fresh = await channel.declare_exchange("fresh", "topic")
        await (await channel.get_queue("said")).bind(fresh, "#")

    async with Relay(dsn, broker.url, exchange="fresh", prepare=prepare) as relay:
        await say(dsn, event("a"))
        assert await relay.run_once() == 1
        async with broker.connected() as connection:
            await (await connection.channel()).exchange_delete("fresh")
        await say(dsn, event("b"))
        with pytest.raises(Exception, match="fresh"):
            await relay.run_once()
        assert await as_soon_as_may(relay) == 1
    assert await heard(broker) == ["a", "b"]
