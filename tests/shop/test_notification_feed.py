"""How numbers and wake-ups hang together: the store and the feed of notifications, on PostgreSQL alone."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool
from tests.shop.conftest import DEADLINE, until
from tests.shop.notifying import DATABASE, TELL

import faultline.shop.notifications
from faultline.components import Supervisor
from faultline.components.faults import BlackHole
from faultline.components.proxy import FaultProxy, saying
from faultline.patterns import Outbox
from faultline.shop import database
from faultline.shop.contracts import Money, OrderConfirmed, OrderLine, OrderPlaced, PaymentRefunded
from faultline.shop.notifications import api, feed
from faultline.shop.notifications.api import Api
from faultline.shop.notifications.feed import Feed
from faultline.shop.notifications.store import Notification, Notifications

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("notification-feed"),  # they share a server
]
LISTENING = "SELECT FROM pg_stat_activity WHERE application_name = %s"
MIGRATIONS = Path(faultline.shop.notifications.__file__).with_name("migrations")


@dataclass(frozen=True, slots=True)
class Alone:
    """The database, and the way to it."""

    dsn: str
    cable: FaultProxy
    through: str
    """By the proxy."""
    pool: AsyncConnectionPool
    notifications: Notifications

    async def tell(self, event: str, user: str) -> None:
        """In a transaction of its own."""
        async with self.pool.connection() as tx, tx.transaction():
            await self.notifications.tell(tx, event, OrderConfirmed(order=event, user=user), user)

    async def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        async with self.pool.connection() as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Alone]:
    folder = tmp_path_factory.mktemp("feed")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with Supervisor(folder) as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        async with (
            database.opened(server.url, DATABASE, MIGRATIONS) as pool,
            FaultProxy(server.host, server.port, protocol="postgres", seed=1) as cable,
        ):
            notifications = Notifications(pool, Outbox())
            await notifications.prepare()
            through = database.dsn(f"postgresql://postgres@127.0.0.1:{cable.port}/postgres", DATABASE)
            yield Alone(database.dsn(server.url, DATABASE), cable, through, pool, notifications)


async def add(alone: Alone, user: str, n: int = 1) -> None:
    """Tell them so much, without an event."""
    async with await psycopg.AsyncConnection.connect(alone.dsn) as connection:
        await connection.execute(TELL, {"user": user, "n": n, "size": 1})


async def test_numbers_have_no_hole_and_come_in_the_order_of_commits(alone: Alone) -> None:
    """Two who tell one recipient at once: the second waits, so its number is larger and its commit later."""
    async with await psycopg.AsyncConnection.connect(alone.dsn, autocommit=True) as held:
        async with held.transaction():
            await alone.notifications.tell(held, "test/held", OrderConfirmed(order="o", user="uma"), "uma")
            waiting = asyncio.create_task(alone.tell("test/0", "uma"))
            asked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%mailbox%%'"
            await until(lambda: alone.rows(asked))
            await alone.tell("test/other", "ulf")
            assert not waiting.done(), "another recipient's does not wait, theirs does"
        await waiting
    async with alone.pool.connection() as tx, tx.transaction(force_rollback=True):
        await alone.notifications.tell(tx, "test/back", OrderConfirmed(order="o", user="uma"), "uma")
    await asyncio.gather(*(alone.tell(f"test/{n}", "uma") for n in range(1, 30)))
    await asyncio.gather(*(alone.tell(f"test/{n}", "uma") for n in range(30)))  # again, past the inbox
    rows = await alone.rows("SELECT number, event FROM notification WHERE recipient = 'uma' ORDER BY number")
    assert [number for number, _ in rows] == [*range(1, 32)]
    assert [event for _, event in rows][:2] == ["test/held", "test/0"]
    assert {event for _, event in rows} == {"test/held", *(f"test/{n}" for n in range(30))}
    said = await alone.rows("SELECT headers ->> 'sequence' FROM outbox WHERE subject = 'uma' ORDER BY position")
    assert said == [(str(number),) for number in range(1, 32)]


async def test_a_refund_and_its_order_that_are_heard_at_once_are_both_told(alone: Alone) -> None:
    """By two processes, of which one takes over: whoever comes second finds what the first has left."""
    lines = (OrderLine(sku="hat", quantity=1, unit=Money(5)),)

    async def place(n: int) -> None:
        order = OrderPlaced(order=f"at-once-{n}", user="rob", lines=lines, total=Money(5), key="k")
        async with alone.pool.connection() as tx, tx.transaction():
            await alone.notifications.tell_placed(tx, f"placed/{n}", order)

    async def refund(n: int) -> None:
        back = PaymentRefunded(order=f"at-once-{n}", amount=Money(5), reference="r", transaction="t")
        async with alone.pool.connection() as tx, tx.transaction():
            await alone.notifications.tell_buyer(tx, f"refunded/{n}", back)

    await asyncio.gather(
        *(work for n in range(40) for work in ((place(n), refund(n)) if n % 2 else (refund(n), place(n))))
    )
    rows = await alone.rows("SELECT template, count(*) FROM notification WHERE recipient = 'rob' GROUP BY template")
    assert sorted(rows) == [("order-placed", 40), ("refunded", 40)]
    assert await alone.rows("SELECT FROM early") == []


class Between(Notifications):
    """A store beside which somebody writes, and is done with it, at a moment that a test has chosen."""

    def __init__(self, pool: AsyncConnectionPool, alone: Alone, ears: Feed) -> None:
        super().__init__(pool, Outbox())
        self.alone, self.ears = alone, ears
        self.at: set[str] = set()

    async def write(self, moment: str, user: str) -> None:
        if moment in self.at:
            self.at.remove(moment)
            await add(self.alone, user)
            # Whatever this process is to be told of it, it has been told by now: the ear hears in order.
            with self.ears.listening("marker", 0) as marker:
                await add(self.alone, "marker")
                async with asyncio.timeout(DEADLINE):
                    assert await marker.woken(within=DEADLINE)

    async def last(self, recipients: Collection[str]) -> dict[str, int]:
        await self.write("before where it begins is read", next(iter(recipients)))
        found = await super().last(recipients)
        await self.write("after where it begins was read", next(iter(recipients)))
        return found

    async def after(self, recipient: str, number: int, limit: int) -> list[Notification]:
        await self.write("before a page is read", recipient)
        found = await super().after(recipient, number, limit)
        await self.write("after a page was read", recipient)
        return found


@asynccontextmanager
async def here(alone: Alone) -> AsyncIterator[tuple[Api, Feed, Between]]:
    """The feed in this very process, so that it can be looked into."""
    ears = Feed(alone.through)
    async with AsyncConnectionPool[psycopg.AsyncConnection](
        alone.through, open=False, kwargs={"autocommit": True}
    ) as pool:
        store = Between(pool, alone, ears)
        running = asyncio.create_task(ears.run(store))
        try:
            await until(lambda: alone.rows(LISTENING, feed.LISTENER))
            yield Api(store, ears), ears, store
        finally:
            running.cancel()
            await asyncio.wait([running])


@pytest.mark.parametrize(
    "moment",
    [
        "before where it begins is read",
        "after where it begins was read",
        "before a page is read",
        "after a page was read",
    ],
)
@pytest.mark.parametrize("resumed", [False, True], ids=["anew", "resumed"])
async def test_what_is_written_between_what_is_there_and_what_comes_is_told_once(
    alone: Alone, moment: str, resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "AT_LEAST", 3600.0)  # nothing is looked for by the clock
    monkeypatch.setattr(api, "HEARTBEAT", 3600.0)
    user = f"between {moment} {resumed}"
    await add(alone, user, 2)
    async with here(alone) as (mine, _, store):
        store.at = {moment}
        response = await mine.stream(user, "1" if resumed else None)
        pieces = response.body_iterator.__aiter__()
        first = await pieces.__anext__()
        began = int(str(first).partition("id: ")[2].strip())
        assert began == (1 if resumed else 3 if moment.startswith("before where") else 2)
        found: list[int] = []
        async with asyncio.timeout(DEADLINE):
            while not found or found[-1] < 4:
                if (found or [began])[-1] == 3 and not store.at:
                    await add(alone, user)
                piece = str(await pieces.__anext__())
                found.append(int(piece.partition("id: ")[2].partition("\n")[0]))
        assert not store.at, "nobody has written there"
        assert found == [*range(began + 1, 5)]
        await pieces.aclose()  # type: ignore[attr-defined]  # pyright: ignore


async def test_who_has_begun_first_and_commits_last_is_not_passed_over(alone: Alone) -> None:
    """Nobody is given a larger number before, so a stream that has sent one has sent all that are smaller."""
    async with (
        here(alone) as (mine, _, _),
        await psycopg.AsyncConnection.connect(alone.dsn, autocommit=True) as slow,
    ):
        pieces = (await mine.stream("late", None)).body_iterator.__aiter__()
        assert "id: 0" in str(await pieces.__anext__())
        async with slow.transaction():
            await alone.notifications.tell(slow, "late/slow", OrderConfirmed(order="slow", user="late"), "late")
            quick = asyncio.create_task(alone.tell("late/quick", "late"))
            heard = asyncio.ensure_future(pieces.__anext__())
            asked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%mailbox%%'"
            await until(lambda: alone.rows(asked))
            await add(alone, "somebody-else")
            assert not heard.done()
        await quick
        async with asyncio.timeout(DEADLINE):
            first, second = str(await heard), str(await pieces.__anext__())
        assert ("id: 1\n" in first, '"about":"slow"' in first) == (True, True)
        assert ("id: 2\n" in second, '"about":"late/quick"' in second) == (True, True)
        await pieces.aclose()  # type: ignore[attr-defined]  # pyright: ignore


async def test_a_wake_up_that_is_lost_is_made_up_for_by_looking(alone: Alone) -> None:
    quiet = TELL.replace("SELECT pg_notify('notifications', %(user)s)", "SELECT 1")
    assert quiet != TELL
    async with here(alone) as (mine, _, _):
        pieces = (await mine.stream("mute", None)).body_iterator.__aiter__()
        await pieces.__anext__()
        async with await psycopg.AsyncConnection.connect(alone.dsn) as connection:
            await connection.execute(quiet, {"user": "mute", "n": 1, "size": 1})
        async with asyncio.timeout(DEADLINE):
            while "id: 1\n" not in str(await pieces.__anext__()):
                pass
        await pieces.aclose()  # type: ignore[attr-defined]  # pyright: ignore


async def test_who_has_lost_its_ear_hears_what_was_said_meanwhile(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "AT_LEAST", 3600.0)
    monkeypatch.setattr(api, "HEARTBEAT", 3600.0)
    async with here(alone) as (mine, _, _):
        pieces = (await mine.stream("deaf", None)).body_iterator.__aiter__()
        await pieces.__anext__()
        listen = alone.cable.hold(saying("LISTEN"))
        killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        assert await alone.rows(killed, feed.LISTENER) == [(True,)]
        await listen.reached(DEADLINE)
        await add(alone, "deaf")
        listen.release()
        async with asyncio.timeout(DEADLINE):
            assert "id: 1\n" in str(await pieces.__anext__())
        await pieces.aclose()  # type: ignore[attr-defined]  # pyright: ignore


@pytest.mark.slow
async def test_a_database_that_is_silent_ends_streams(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "HEARTBEAT", 3600.0)
    async with here(alone) as (mine, ears, _):
        pieces = (await mine.stream("dark", None)).body_iterator.__aiter__()
        await pieces.__anext__()
        alone.cable.add(BlackHole())
        try:
            async with asyncio.timeout(DEADLINE):
                assert [piece async for piece in pieces] == []
            assert ears.listeners == 0
        finally:
            alone.cable.heal()
            await alone.cable.sever()


async def test_a_stream_says_that_it_lives_and_ends_after_its_time(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "HEARTBEAT", 0.2)
    monkeypatch.setattr(api, "LONGEST", 2.0)
    async with here(alone) as (mine, ears, _):
        response = await mine.stream("idle", None)
        pieces = [str(piece) async for piece in response.body_iterator]
        assert pieces[0] == "retry: 1000\nid: 0\n\n"
        assert len(pieces) > 2
        assert set(pieces[1:]) == {":\n\n"}
        assert ears.listeners == 0


async def test_who_is_one_too_many_is_told_to_come_again(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST", 1)
    async with here(alone) as (mine, ears, _):
        pieces = (await mine.stream("first", None)).body_iterator.__aiter__()
        await pieces.__anext__()
        with pytest.raises(api.Problem, match="503 unavailable: 1 listen here already"):
            await mine.stream("second", None)
        await pieces.aclose()  # type: ignore[attr-defined]  # pyright: ignore
        assert ears.listeners == 0
        never_begun = await mine.stream("third", None)
        assert ears.listeners == 0
        ears.end()
        assert [piece async for piece in never_begun.body_iterator] == []
        with pytest.raises(api.Problem, match="503 unavailable: this process ends"):
            await mine.stream("fourth", None)
