"""What notifications promise: each event is told once to whom it concerns, whoever is killed where."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest
import pytest_asyncio
from aio_pika import Message
from tests.shop.conftest import DEADLINE, until
from tests.shop.notifying import (
    DATABASE,
    ONE,
    QUEUE,
    TWO,
    Edge,
    Saying,
    Town,
    cancelled,
    confirmed,
    kill,
    notifying,
    placed,
    refund_failed,
    refunded,
)
from tests.shop.people import asked, guest, guest_id

from faultline.components.faults import Refuse
from faultline.shop.contracts import (
    Line,
    Money,
    OrderConfirmed,
    ReturnClosed,
    ReturnRequested,
    UserErased,
    UserRegistered,
    said,
)

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("notifications"),  # they share the services
]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAID = "SELECT id, data ->> 'template', headers ->> 'correlationid' FROM outbox WHERE subject = %s ORDER BY position"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("notifications")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with notifying(folder, shared_broker) as one:
        yield one


def registered(user: str) -> Saying:
    return UserRegistered(user=user, email_hash="x", role="customer"), user, 1


def erased(user: str) -> Saying:
    return UserErased(user=user), user, 2


def give_back(order: str, user: str) -> Saying:
    return ReturnRequested(order=order, user=user, lines=(Line("hat", 2),), total=Money(1999)), order, 3


def closed(order: str, user: str) -> Saying:
    return ReturnClosed(order=order, user=user), order, 6


async def test_each_event_is_told_once_to_whom_it_concerns_however_often_it_is_heard(town: Town) -> None:
    words = [
        registered("ann"),
        placed("o-1", "ann"),
        confirmed("o-1", "ann"),
        give_back("o-1", "ann"),
        refunded("o-1"),
        closed("o-1", "ann"),
        placed("o-2", "ann"),
        cancelled("o-2", "ann", "declined"),
        placed("o-3", "bob"),
        refund_failed("o-3"),
    ]
    for word in words:  # those of different subjects have no order, and here they are to have one
        await town.say(word)
        await town.heard(said(word[0], subject=word[1], sequence=word[2], time=NOW, correlation="").id)
    await town.say(*words, *words)
    templates = (
        "user-registered",
        "order-placed",
        "order-confirmed",
        "return-requested",
        "refunded",
        "return-closed",
        "order-placed",
        "order-cancelled",
    )
    await town.told("ann", *templates)
    await town.told("bob", "order-placed", "refund-failed")
    await town.settled()
    found = await town.told("ann", *templates)
    assert [one["number"] for one in found] == [*range(1, 9)]
    assert found[1]["text"].startswith("2 items for 19.99 EUR.")
    assert found[7]["text"] == "The payment was declined. You have not paid anything."
    assert [one["about"] for one in found] == ["ann", *["o-1"] * 5, *["o-2"] * 2]
    assert {one["read_at"] for one in found} == {None}
    assert (await town.inbox("ann"))["unread"] == 8
    assert await town.shop.rows(DATABASE, SAID, "ann") == [
        (f"notifications.sent.v1/ann/{number}", template, "a-test") for number, template in enumerate(templates, 1)
    ]
    assert (await town.inbox("nobody")) == {"items": [], "unread": 0, "next": None}


async def test_a_refund_that_is_heard_of_before_its_order_is_told_after_it(town: Town) -> None:
    await town.say(refunded("o-early"), refunded("o-early"))
    await town.heard("payment.refunded.v1/o-early/3")
    assert await town.shop.rows(DATABASE, "SELECT order_id FROM early") == [("o-early",)]
    await town.say(placed("o-early", "eva"))
    await town.told("eva", "order-placed", "refunded")
    assert await town.shop.rows(DATABASE, "SELECT order_id FROM early") == []
    await town.say(refunded("o-early"), placed("o-early", "eva"))
    await town.settled()
    await town.told("eva", "order-placed", "refunded")


@pytest.mark.parametrize("signal", [SIGKILL, SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("verb", ["COMMIT", "ACK"])
async def test_who_dies_around_the_commit_or_the_acknowledgement_has_told_it_once(
    town: Town, verb: str, after: bool, signal: int
) -> None:
    user = f"{verb}-{after}-{signal:d}".lower()
    edge = Edge(verb, after=after, mark="INSERT INTO notification" if verb == "COMMIT" else "")
    proxy = town.shop.before_postgres if verb == "COMMIT" else town.before_broker
    proxy.watch(edge)
    stopped = None
    try:
        await town.say(placed(f"o-{user}", user))
        async with asyncio.timeout(DEADLINE):
            await edge.met.wait()
        before = (verb, after) == ("COMMIT", False)
        told = await town.shop.rows(DATABASE, "SELECT template FROM notification WHERE recipient = %s", user)
        assert told == ([] if before else [("order-placed",)]), "the fault has hit at another moment"
        victim = await kill(town, proxy, edge.connection, signal)
        stopped = victim.pid if signal == SIGSTOP else None
        await town.say(confirmed(f"o-{user}", user), placed(f"o-{user}", user))
        other = TWO if victim.name == ONE else ONE
        await until(lambda: _count(town, user, 2, at=other))
    finally:
        proxy.watch(None)
        if stopped:
            os.kill(stopped, SIGCONT)
    if signal == SIGKILL:
        await town.shop.again(victim.name, after=victim.pid or 0)
    await town.settled()
    found = await town.told(user, "order-placed", "order-confirmed")
    assert [one["number"] for one in found] == [1, 2]
    assert [id_ for id_, _, _ in await town.shop.rows(DATABASE, SAID, user)] == [
        f"notifications.sent.v1/{user}/{number}" for number in (1, 2)
    ]
    assert await town.shop.broker.ready_messages(f"{QUEUE}.parked") == 0


async def _count(town: Town, user: str, count: int, *, at: str) -> bool:
    return len((await town.inbox(user, at=at))["items"]) >= count


async def test_while_the_database_is_away_events_wait_and_none_is_lost_or_parked(town: Town) -> None:
    town.shop.before_postgres.add(Refuse())
    await town.shop.before_postgres.sever()
    try:
        await town.say(placed("o-away", "kim"), confirmed("o-away", "kim"))
        reply = await town.shop.ask(ONE, "/v1/notifications", X_User="kim")
        assert reply.status == 503
    finally:
        town.shop.before_postgres.heal()

    async def back() -> bool:
        return (await town.shop.ask(ONE, "/ready")).status == 200

    await until(back)
    await town.told("kim", "order-placed", "order-confirmed")
    assert await town.shop.broker.ready_messages(f"{QUEUE}.parked") == 0


async def test_reading_is_remembered_once_and_only_by_whose_it_is(town: Town) -> None:
    await town.say(placed("o-r", "lea"), confirmed("o-r", "lea"))
    first, second = await town.told("lea", "order-placed", "order-confirmed")
    for _ in range(2):
        reply = await town.read("max", first["id"])
        assert (reply.status, reply.body["type"]) == (404, "/problems/unknown-notification")
    assert (await town.inbox("lea"))["unread"] == 2
    once, twice = await town.read("lea", first["id"]), await town.read("lea", first["id"])
    assert (once.status, twice.status) == (200, 200)
    assert once.body["read_at"] == twice.body["read_at"] is not None
    assert (await town.inbox("lea"))["unread"] == 1
    assert (await town.read("lea", "no-such-thing")).status == 404
    assert (await town.read("lea", second["id"])).status == 200
    assert (await town.inbox("lea"))["unread"] == 0


async def test_all_that_was_seen_is_read_and_nothing_that_came_since(town: Town) -> None:
    await town.say(placed("o-a", "pia"), confirmed("o-a", "pia"), placed("o-b", "pip"))
    await town.told("pip", "order-placed")
    seen = (await town.told("pia", "order-placed", "order-confirmed"))[-1]["number"]
    await town.say(give_back("o-a", "pia"))
    await town.told("pia", "order-placed", "order-confirmed", "return-requested")
    for read in (2, 0):
        reply = await town.shop.ask(ONE, "/v1/notifications/read", {"up_to": seen}, method="PUT", X_User="pia")
        assert (reply.status, reply.body) == (200, {"read": read})
    assert (await town.inbox("pia"))["unread"] == 1
    assert (await town.inbox("pip"))["unread"] == 1, "another's"
    for nonsense in ({"up_to": -1}, {"up_to": 2**63}, {"up_to": "x"}, {}):
        reply = await town.shop.ask(ONE, "/v1/notifications/read", nonsense, method="PUT", X_User="pia")
        assert reply.status == 422, nonsense


async def test_pages_have_each_once_though_more_comes_meanwhile(town: Town) -> None:
    orders = [f"o-p{n}" for n in range(7)]
    await town.say(*(placed(order, "tom") for order in orders))
    await town.told("tom", *["order-placed"] * 7)
    seen: list[int] = []
    query = "?limit=3"
    while True:
        page = await town.inbox("tom", query)
        seen += [one["number"] for one in page["items"]]
        assert page["unread"] >= 7
        await town.say(confirmed(orders[len(seen) % 7], "tom"))
        if not page["next"]:
            break
        query = page["next"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    for bad in ("?after=x", "?after=WyJ4Il0", "?limit=0", "?limit=101"):
        assert (await town.shop.ask(ONE, f"/v1/notifications{bad}", X_User="tom")).status == 422, bad
    assert (await town.shop.ask(ONE, "/v1/notifications")).status == 422, "whose?"


async def test_of_who_was_erased_nothing_is_kept_and_they_are_told_nothing_any_more(town: Town) -> None:
    await town.say(registered("zoe"), placed("o-z", "zoe", 123_456))
    await until(lambda: _count(town, "zoe", 2, at=ONE))
    await town.say(erased("zoe"), erased("zoe"))
    await town.heard("users.user-erased.v1/zoe/2")
    assert (await town.inbox("zoe")) == {"items": [], "unread": 0, "next": None}
    await town.say(confirmed("o-z", "zoe"), refunded("o-z"), placed("o-z2", "zoe"), erased("zoe"))
    await town.heard("orders.order-confirmed.v1/o-z/2", "payment.refunded.v1/o-z/3", "orders.order-placed.v1/o-z2/1")
    assert (await town.inbox("zoe"))["items"] == []
    for table in ("notification", "early", "mailbox", "buyer"):
        kept = await town.shop.rows(DATABASE, f"SELECT row_to_json({table})::text FROM {table}")
        assert "1,234.56" not in str(kept)
        assert table in {"mailbox", "buyer"} or "zoe" not in str(kept)
    await town.say(erased("yet-unknown"), registered("yet-unknown"))
    await town.heard("users.user-registered.v1/yet-unknown/1", "users.user-erased.v1/yet-unknown/2")
    assert (await town.inbox("yet-unknown"))["items"] == [], "heard of backwards"


async def test_what_is_no_event_is_parked_and_holds_nobody_up(town: Town) -> None:
    async with town.shop.broker.connected() as connection:
        exchange = await (await connection.channel()).get_exchange("shop.events")
        message = Message(b'{"order": 5}', message_id="poison", type=OrderConfirmed.type, headers={"subject": "o-x"})
        await exchange.publish(message, OrderConfirmed.type)
    await town.say(placed("o-x", "ute"))
    await town.told("ute", "order-placed")

    async def parked() -> bool:
        return await town.shop.broker.ready_messages(f"{QUEUE}.parked") == 1

    await until(parked)
    async with town.shop.broker.connected() as connection:
        queue = await (await connection.channel()).get_queue(f"{QUEUE}.parked")
        assert (await queue.get(no_ack=True)).message_id == "poison"


async def test_through_the_gateway_everybody_has_their_own(town: Town) -> None:
    mine, theirs = {"X_Guest": guest("nora")}, {"X_Guest": guest("otto")}
    await town.say(placed("o-g", guest_id("nora")))
    await town.told(guest_id("nora"), "order-placed")
    found = await asked(town.shop, "/api/v1/notifications", **mine)
    assert (found.status, found.body["unread"]) == (200, 1)
    (one,) = found.body["items"]
    assert (await asked(town.shop, "/api/v1/notifications", **theirs)).body["items"] == []
    path = f"/api/v1/notifications/{one['id']}/read"
    assert (await asked(town.shop, path, method="PUT", **theirs)).status == 404
    assert (await asked(town.shop, path, method="PUT", X_User=guest_id("nora"))).status == 401
    assert (await asked(town.shop, path, method="PUT", X_User=guest_id("nora"), **theirs)).status == 404
    assert (await asked(town.shop, path, method="PUT", **mine)).body["read_at"]
    read = await asked(town.shop, "/api/v1/notifications/read", {"up_to": 1}, method="PUT", **mine)
    assert (read.status, read.body) == (200, {"read": 0})
