"""What notifications promise whoever is looking: each once, in order, wherever and whenever the stream breaks off."""

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGKILL, SIGTERM

import aiohttp
import psycopg
import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool
from tests.shop.conftest import until
from tests.shop.notifying import DATABASE, ONE, TELL, TWO, Stream, Town, confirmed, notifying, placed
from tests.shop.people import guest, guest_id

from faultline.components.faults import BlackHole
from faultline.patterns import Outbox
from faultline.shop.contracts import OrderConfirmed
from faultline.shop.database import dsn
from faultline.shop.notifications import feed
from faultline.shop.notifications.store import Notifications

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("notification-stream"),  # they share the services
]
LISTENING = "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = %s"
STALLED = 3.0  # seconds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("stream")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with notifying(folder, shared_broker, SHOP_STALLED_SECONDS=str(STALLED)) as one:
        yield one


async def add(town: Town, user: str, n: int = 1, *, size: int = 1) -> None:
    """Tell them so much, without an event: for those tests that are not about how it comes in."""
    async with await psycopg.AsyncConnection.connect(dsn(town.shop.postgres.url, DATABASE)) as connection:
        await connection.execute(TELL, {"user": user, "n": n, "size": size})


async def numbers(stream: Stream, count: int) -> list[int]:
    return [(await stream.event()).id for _ in range(count)]


@pytest.mark.parametrize("at", [ONE, TWO])
async def test_what_is_told_comes_at_once_at_either_replica(town: Town, at: str) -> None:
    user = f"live-{at}"
    await town.say(placed(f"o-{at}", user))
    await town.told(user, "order-placed")
    async with town.stream(user, at=at) as stream:
        began = await stream.next()
        assert began
        assert (stream.status, began.id, began.body) == (200, 1, {}), "it says where it begins"
        await town.say(confirmed(f"o-{at}", user), placed(f"o-{at}", "somebody-else"))
        heard = await stream.event()
        assert heard.id == 2
        assert heard.body == (await town.inbox(user))["items"][0]
        assert heard.body["template"] == "order-confirmed"


async def test_a_stream_goes_on_behind_the_last_that_was_heard_at_whichever_replica(town: Town) -> None:
    await add(town, "back", 3)
    async with town.stream("back", 0, at=ONE) as stream:
        assert await numbers(stream, 2) == [1, 2]
    await add(town, "back", 120)  # more than a stream holds at once
    async with town.stream("back", 2, at=TWO) as stream:
        assert await numbers(stream, 121) == [*range(3, 124)]
        await add(town, "back")
        assert await numbers(stream, 1) == [124]
    async with town.stream("back", 123, query="?after=5") as stream:
        assert await numbers(stream, 1) == [124], "a browser that comes again has the header, and its first address"
    async with town.stream("back", query="?after=123") as stream:
        assert await numbers(stream, 1) == [124]
    async with town.stream("back", 10_000) as stream:
        began = await stream.next()
        assert began
        assert began.id == 124, "what nobody was given is another database's"
        await add(town, "back")
        assert await numbers(stream, 1) == [125]
    for nonsense in ("x", "-1", "1.5", "9" * 19, "\N{SUPERSCRIPT TWO}"):
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{town.shop.process(ONE).port}/v1/notifications/stream"
            async with session.get(url, params={"after": nonsense}, headers={"X-User": "back"}) as response:
                assert response.status == 422, nonsense


async def test_a_transaction_that_commits_late_is_not_passed_over(town: Town) -> None:
    """Who has begun first, and commits last, has the smaller number: nobody is given a larger one before."""
    async with (
        AsyncConnectionPool[psycopg.AsyncConnection](dsn(town.shop.postgres.url, DATABASE), open=False) as pool,
        await psycopg.AsyncConnection.connect(dsn(town.shop.postgres.url, DATABASE), autocommit=True) as slow,
        town.stream("late", at=TWO) as stream,
    ):
        notifications = Notifications(pool, Outbox())

        async def tell(tx: psycopg.AsyncConnection, event: str) -> None:
            await notifications.tell(tx, event, OrderConfirmed(order=event, user="late"), "late")

        async def quick() -> None:
            async with pool.connection() as tx, tx.transaction():
                await tell(tx, "late/quick")

        async with slow.transaction():
            await tell(slow, "late/slow")
            waiting = asyncio.create_task(quick())
            await add(town, "unrelated")
            done, _ = await asyncio.wait([waiting], timeout=1.0)
            assert not done
        await waiting
        heard = [await stream.event(), await stream.event()]
        assert [(one.id, one.body["about"]) for one in heard] == [(1, "late/slow"), (2, "late/quick")]


async def test_a_wake_up_that_is_lost_is_made_up_for(town: Town) -> None:
    async with town.stream("mute") as stream:
        assert await stream.next()
        killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        assert await town.shop.rows(DATABASE, killed, feed.LISTENER) == [(True,)] * 2
        await add(town, "mute")
        assert await numbers(stream, 1) == [1]
        statement = TELL.replace("SELECT pg_notify('notifications', %(user)s)", "SELECT 1")
        assert statement != TELL
        async with await psycopg.AsyncConnection.connect(dsn(town.shop.postgres.url, DATABASE)) as connection:
            await connection.execute(statement, {"user": "mute", "n": 1, "size": 1})
        assert await numbers(stream, 1) == [2], "by looking"
    await until(lambda: listening(town, 2))


async def listening(town: Town, count: int) -> bool:
    return await town.shop.rows(DATABASE, LISTENING, feed.LISTENER) == [(count,)]


async def test_two_hundred_who_look_are_one_listener_for_the_database(town: Town) -> None:
    users = [f"crowd-{n % 20}" for n in range(200)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def look(number: int) -> list[int]:
            name = (ONE, TWO)[number % 2]
            url = f"http://127.0.0.1:{town.shop.process(name).port}/v1/notifications/stream"
            async with session.get(url, headers={"X-User": users[number]}) as response:
                stream = Stream(response)
                began = await stream.next()
                assert began
                there.append(number)
                return [began.id, *await numbers(stream, 2)]

        there: list[int] = []
        looking = [asyncio.create_task(look(number)) for number in range(len(users))]
        await until(lambda: asyncio.sleep(0, len(there) == len(users)))
        assert await listening(town, 2)
        connections = await town.shop.rows(
            DATABASE, "SELECT count(*)::int FROM pg_stat_activity WHERE datname = %s", DATABASE
        )
        assert connections[0][0] < 60
        for user in sorted(set(users)):
            await add(town, user)
            await add(town, user)
        assert await asyncio.gather(*looking) == [[0, 1, 2]] * len(users)


def memory(pid: int | None) -> int:
    """Bytes that it has."""
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_who_does_not_read_is_hung_up_on_and_costs_nothing_until_then(town: Town) -> None:
    """A program that stands still: its kernel answers for it, so nothing but its not taking anything tells of it."""
    await add(town, "lazy", 2_000, size=20_000)  # 40 MB for each who looks
    process = town.shop.process(ONE)
    before = memory(process.pid)
    lazy: list[socket.socket] = []
    try:
        for _ in range(20):
            one = socket.socket()
            lazy.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            one.connect(("127.0.0.1", process.port))
            one.sendall(b"GET /v1/notifications/stream HTTP/1.1\r\nHost: x\r\nX-User: lazy\r\nLast-Event-ID: 0\r\n\r\n")
        began, most = time.monotonic(), 0

        async def gone() -> bool:
            nonlocal most
            most = max(most, memory(process.pid) - before)
            return not established(process.port, {one.getsockname()[1] for one in lazy})

        await until(gone)
        assert time.monotonic() - began > STALLED / 2, "they were never connected"
        assert most < 100 * 1024**2, f"{most / 1024**2:.0f} MB for twenty who would have 800"
    finally:
        for one in lazy:
            one.close()
    assert town.shop.process(ONE).pid == process.pid
    async with town.stream("lazy", 1_998) as stream:
        assert await numbers(stream, 2) == [1_999, 2_000]


def established(port: int, ports: set[int]) -> set[int]:
    """Of these callers' ports those with which the service still has a connection."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [(row[1].split(":")[1], row[2].split(":")[1]) for row in rows]
    return {int(theirs, 16) for ours, theirs in ends if int(ours, 16) == port} & ports


@pytest.mark.parametrize("signal", [SIGTERM, SIGKILL])
async def test_a_replica_that_ends_costs_nothing_but_a_new_call(town: Town, signal: int) -> None:
    user = f"ends-{signal:d}"
    await add(town, user, 2)
    process = town.shop.process(ONE)
    assert process.pid
    async with town.stream(user, 0, at=ONE) as stream, town.stream(user, 0, at=TWO) as other:
        assert await numbers(stream, 2) == [1, 2]
        began = time.monotonic()
        os.kill(process.pid, signal)
        if signal == SIGTERM:
            assert await stream.next() is None, "it ends as a whole answer does"
            assert time.monotonic() - began < 4, "it has not waited until it was cut off"
        else:
            with pytest.raises(aiohttp.ClientError):
                await stream.next()
        await add(town, user, 2)
        assert await numbers(other, 4) == [1, 2, 3, 4]
    async with town.stream(user, 2, at=TWO) as stream:
        assert await numbers(stream, 2) == [3, 4]
    await town.shop.again(ONE, after=process.pid)


@pytest.mark.slow
async def test_a_database_that_is_silent_ends_streams_and_no_heart_beat_says_that_all_is_well(town: Town) -> None:
    await add(town, "dark")
    async with town.stream("dark", 0) as stream:
        assert await numbers(stream, 1) == [1]
        town.shop.before_postgres.add(BlackHole())
        try:
            assert await stream.next() is None
        finally:
            town.shop.before_postgres.heal()
            await town.shop.before_postgres.sever()

    async def well() -> bool:
        return {(await town.shop.ask(name, "/ready")).status for name in (ONE, TWO)} == {200}

    await until(well)
    await add(town, "dark")
    async with town.stream("dark", 1) as stream:
        assert await numbers(stream, 1) == [2]
    await until(lambda: listening(town, 2))


async def test_however_often_a_stream_breaks_off_each_is_heard_once_and_in_order(town: Town) -> None:
    seed = int(os.environ.get("FAULTLINE_SEED", random.randrange(10**6)))
    print(f"FAULTLINE_SEED={seed}")
    chance, total = random.Random(seed), 150

    async def write() -> None:
        for n in range(total):
            await town.say((OrderConfirmed(order=f"storm-{n}", user="storm"), f"storm-{n}", 2))

    heard: list[int] = []
    breaks = 0
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(120):
        tasks.create_task(write())
        while len(heard) < total:
            async with town.stream("storm", heard[-1] if heard else 0, at=chance.choice((ONE, TWO))) as stream:
                breaks += 1
                wanted = chance.randint(1, 12)
                while wanted and len(heard) < total and (said := await stream.next()):  # it may end by itself, too
                    heard += [said.id] if said.body else []
                    wanted -= bool(said.body)
    assert breaks > 10
    assert heard == [*range(1, total + 1)]


async def test_the_gateway_passes_each_piece_on_and_its_deadline_cuts_no_stream(town: Town) -> None:
    url = f"http://127.0.0.1:{town.shop.process('gateway-1').port}/api/v1/notifications/stream"
    me = guest_id("gina")
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            assert response.status == 401
        async with session.get(url, headers={"X-Guest": guest("gina"), "X-User": "another"}) as response:
            assert response.status == 200, await response.text()
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = Stream(response)
            assert await stream.next()
            began = time.monotonic()
            assert await _beats(stream, 1), "longer than the deadline of any request"
            assert time.monotonic() - began > 3.0
            for number in (1, 2):
                await add(town, me)
                await add(town, "another")
                assert (await stream.event()).id == number
        await add(town, me)
        async with session.get(url, headers={"X-Guest": guest("gina"), "Last-Event-ID": "1"}) as response:
            stream = Stream(response)
            assert await numbers(stream, 2) == [2, 3]
            for name in (ONE, TWO):
                process = town.shop.process(name)
                assert process.pid
                os.kill(process.pid, SIGTERM)
                await town.shop.again(name, after=process.pid)
            assert await stream.next() is None, "it ends whole, through the gateway, too"


async def _beats(stream: Stream, count: int) -> bool:
    """Wait for so many heart-beats, in which nothing else is said."""
    waiting = asyncio.create_task(stream.next())
    try:
        await until(lambda: asyncio.sleep(0, stream.beats >= count))
        return not waiting.done()
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
