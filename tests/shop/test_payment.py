"""What payment promises: one capture an order, whatever its provider does, and a ledger that says the same as it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from signal import SIGKILL, SIGTERM
from typing import LiteralString

import pytest
import pytest_asyncio
from psycopg import AsyncConnection, errors
from tests.shop.conftest import DEADLINE, until
from tests.shop.paying import ONE, PRICE, SECRET, Paying, capture, paying, refund

from faultline.components.faults import BlackHole, Direction, Refuse
from faultline.components.http import ask
from faultline.components.ports import reserved
from faultline.components.proxy import saying
from faultline.shop.contracts import Money
from faultline.shop.database import dsn
from faultline.shop.signatures import Signatures

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("payment"),  # they share the services
]
WEBHOOK = "/v1/webhooks/provider"
BOOK = """
WITH one AS (INSERT INTO transaction (id, order_id, reference) VALUES ('x', 'x', 'x'))
INSERT INTO entry (transaction_id, account, cents, currency) VALUES
"""
DUE = "UPDATE capture SET due_at = now() WHERE order_id = %s RETURNING order_id"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Paying]:
    folder = tmp_path_factory.mktemp("payment")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with paying(folder, shared_broker) as one:
        yield one


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def healed(both: Paying) -> AsyncIterator[None]:
    yield
    await both.heal()


async def test_a_command_twice_and_under_two_names_is_one_capture(both: Paying) -> None:
    command = capture("twice")
    await asyncio.gather(both.say(command), both.say(command), both.say(command, id_="another"))
    await both.becomes("twice", "captured")
    await both.say(command, id_="late")
    seen = "SELECT count(*)::int FROM inbox WHERE message_id = ANY (%s)"
    ids = ["payment.capture.v1/twice/1", "another", "late"]

    async def heard() -> bool:
        return await both.shop.rows("payment", seen, ids) == [(3,)]

    await until(heard)
    await both.require_captured_once("twice")
    reply = await both.shop.ask(ONE, "/v1/captures/twice")
    assert reply.body["amount"] == {"cents": 1999, "currency": "EUR"}
    headers = await both.shop.rows("payment", "SELECT headers->>'correlationid' FROM replies WHERE subject = 'twice'")
    assert headers == [("c-twice",)]
    assert await both.state("never") == "unknown"


async def test_the_ledger_is_listed_page_by_page_at_the_times_of_its_events(both: Paying) -> None:
    await both.say(capture("listed"))
    await both.becomes("listed", "captured")
    await both.say(refund("listed"))
    await both.becomes("listed", "refunded")
    page, found = (await both.shop.ask(ONE, "/v1/transactions?limit=1")).body, []
    while page["items"]:
        found += page["items"]
        page = (await both.shop.ask(ONE, f"/v1/transactions?limit=1&after={page['next']}")).body
    assert page == {"items": [], "next": None}
    mine = [(one["id"], one["amount"]["cents"]) for one in found if one["order"] == "listed"]
    assert mine == [("listed:capture", PRICE.cents), ("listed:refund", -PRICE.cents)]
    told = await both.shop.rows("payment", "SELECT headers ->> 'time' FROM outbox WHERE subject = 'listed' ORDER BY id")
    times = [datetime.fromisoformat(one["at"]) for one in found if one["order"] == "listed"]
    assert times == [datetime.fromisoformat(time) for (time,) in told]
    day = times[0].astimezone(UTC).date()
    of_day = (await both.shop.ask(ONE, f"/v1/transactions?day={day}")).body["items"]
    assert "listed:capture" in [one["id"] for one in of_day]
    assert (await both.shop.ask(ONE, f"/v1/transactions?day={day - timedelta(days=2)}")).body["items"] == []


async def test_what_the_provider_declines_is_declined_for_good(both: Paying) -> None:
    await both.misbehave(decline={"next": 1})
    await both.say(capture("poor"))
    await both.becomes("poor", "declined declined")
    await both.say(refund("poor"))

    async def answered() -> bool:
        return (await both.told("poor"))[1][1:] == ["payment.refund-replied.v1"]

    await until(answered)
    await both.require_nothing_moved("poor")


@pytest.mark.parametrize(
    "fault",
    [
        {"silent": {"next": 1, "seconds": 2.0}},
        {"slow": {"next": 1, "seconds": 1.5}},
        {"twice": {"next": 1}},
        {"late": {"next": 1, "seconds": 0.5}},
        {"gone": {"next": 2}},
    ],
    ids=str,
)
async def test_however_it_misbehaves_the_order_is_charged_once(
    both: Paying, fault: dict[str, dict[str, object]]
) -> None:
    """Without its webhook's help until it is known: who timed out has to ask."""
    order = f"odd-{next(iter(fault))}"
    both.before_payment.add(Refuse())
    await both.before_payment.sever()
    await both.misbehave(**fault)
    await both.say(capture(order))
    await both.becomes(order, "captured")
    both.before_payment.heal()
    waiting = "SELECT id FROM webhook WHERE key = %s AND acknowledged_at IS NULL"
    key = f"{order}:capture"
    await both.shop.rows("provider", "UPDATE webhook SET due_at = now() WHERE key = %s RETURNING id", key)

    async def acknowledged() -> bool:
        return not await both.shop.rows("provider", waiting, key)

    await until(acknowledged)
    await both.require_captured_once(order)


async def test_a_webhook_that_comes_before_the_answer_settles_it(both: Paying) -> None:
    both.before_provider.add(BlackHole(), Direction.TO_CLIENT)  # payment hears no answer at all
    await both.say(capture("hint"))
    await both.becomes("hint", "captured")
    await both.require_captured_once("hint")


async def test_only_the_providers_own_webhooks_of_now_are_heard(both: Paying) -> None:
    both.before_provider.add(Refuse())
    await both.before_provider.sever()
    await both.say(capture("forged"))
    await both.becomes("forged", "pending")
    told = {"key": "forged:capture", "status": "succeeded", "code": "", "reference": "ch_forged"}
    body = {**told, "amount": {"cents": PRICE.cents, "currency": "EUR"}}
    raw = json.dumps(body).encode()
    signed = Signatures(SECRET).headers("POST", WEBHOOK, raw)
    old = Signatures(SECRET, clock=lambda: time.time() - 301).headers("POST", WEBHOOK, raw)
    forged = Signatures("guessed").headers("POST", WEBHOOK, raw)
    other = Signatures(SECRET).headers("POST", "/v1/charges", raw)
    for headers, name in (({}, "bad"), (forged, "bad"), (other, "bad"), (old, "old")):
        reply = await both.shop.ask(ONE, WEBHOOK, body, **headers)
        assert (reply.status, reply.body["type"]) == (401, f"/problems/{name}-signature")
    changed = await both.shop.ask(ONE, WEBHOOK, {**body, "reference": "ch_other"}, **signed)
    assert changed.status == 401
    assert await both.state("forged") == "pending"
    for _ in range(2):
        assert (await both.shop.ask(ONE, WEBHOOK, body, **signed)).status == 204
    assert await both.state("forged") == "captured"
    assert len(await both.ledger("forged")) == 1
    both.before_provider.heal()

    async def seen() -> bool:  # once the circuit is closed again
        reply = await both.shop.ask(ONE, "/v1/reconciliation")
        return reply.status == 200 and [one["key"] for one in reply.body["differences"]] == ["forged:capture"]

    await until(seen)  # whoever has the secret can do that, and is found out


async def test_killed_between_the_charge_and_the_commit_it_is_charged_once(both: Paying) -> None:
    both.before_payment.add(Refuse())
    await both.before_payment.sever()
    hold = both.shop.before_postgres.hold(saying("INSERT INTO transaction"))
    await both.say(capture("killed"))
    await hold.reached(20)
    pid = both.shop.process(ONE).pid
    assert pid
    os.kill(pid, SIGKILL)
    await both.shop.again(ONE, after=pid)
    hold.release()
    assert await both.state("killed") == "pending"
    await both.shop.rows("payment", DUE, "killed")  # the lease of the dead is over
    await both.becomes("killed", "captured")
    await both.require_captured_once("killed")


async def test_while_the_provider_is_gone_work_waits_and_then_goes_on(both: Paying) -> None:
    await both.misbehave(gone={"share": 1.0})
    orders = [f"gone-{n}" for n in range(12)]
    before = len(both.shop.log(ONE))
    await both.say(*map(capture, orders))

    async def opened() -> bool:
        return any(line.get("now") == "open" for line in both.shop.log(ONE)[before:])

    await until(opened)
    assert {await both.state(order) for order in orders} == {"pending"}
    await both.misbehave()
    for order in orders:
        await both.becomes(order, "captured")
        await both.require_captured_once(order)


async def test_what_was_not_begun_in_time_is_declined_and_what_was_is_resolved(both: Paying) -> None:
    await both.say(capture("late", seconds=-1))
    await both.becomes("late", "declined too-late")
    await both.require_nothing_moved("late")
    both.before_provider.add(Refuse())  # so it is certain that nothing was asked
    await both.before_provider.sever()
    await both.say(capture("refused", seconds=1.0))
    await both.becomes("refused", "declined too-late")
    both.before_provider.heal()
    await both.require_nothing_moved("refused")
    await both.misbehave(gone={"share": 1.0})  # an answer, but not one that says what has happened
    await both.say(capture("begun", seconds=0.7))

    async def too_late() -> bool:
        asked = "SELECT begun AND until < now() FROM capture WHERE order_id = 'begun'"
        return await both.shop.rows("payment", asked) == [(True,)]

    await until(too_late)
    await both.misbehave()
    await both.becomes("begun", "captured")
    await both.require_captured_once("begun")


async def test_a_refund_gives_back_the_whole_once(both: Paying) -> None:
    await both.say(capture("back"))
    await both.becomes("back", "captured")
    await both.misbehave(silent={"next": 1, "seconds": 2.0}, twice={"next": 1})
    await asyncio.gather(both.say(refund("back")), both.say(refund("back"), id_="another refund"))
    await both.becomes("back", "refunded")
    cents = PRICE.cents
    assert await both.moves("back") == [("back:capture", cents), ("back:refund", -cents)]
    assert (await both.ledger("back"))["back:refund"] == {"provider": -cents, "refunds": cents}
    assert await both.told("back") == (
        ["payment.captured.v1", "payment.refunded.v1"],
        ["payment.capture-replied.v1 captured", "payment.refund-replied.v1"],
    )


async def test_a_refund_that_comes_first_keeps_the_capture_from_happening(both: Paying) -> None:
    await both.say(refund("early"))
    await both.becomes("early", "declined cancelled")
    assert await both.told("early") == ([], ["payment.refund-replied.v1"])
    await both.say(capture("early"))

    async def answered() -> bool:
        return await both.told("early") == (
            ["payment.declined.v1"],
            ["payment.refund-replied.v1", "payment.capture-replied.v1 declined"],
        )

    await until(answered)
    assert await both.moves("early") == []


async def test_a_refund_of_what_may_be_charged_waits_until_that_is_known(both: Paying) -> None:
    both.before_payment.add(Refuse())
    await both.before_payment.sever()
    both.before_provider.add(BlackHole(), Direction.TO_CLIENT)
    await both.say(capture("between"))
    await both.at_the_provider("between:capture")
    await both.say(refund("between"))

    async def asked() -> bool:
        return await both.shop.rows("payment", "SELECT FROM capture WHERE order_id = 'between' AND refund_asked") != []

    await until(asked)
    assert await both.state("between") == "pending"
    both.before_provider.heal()
    await both.becomes("between", "refunded")
    assert await both.moves("between") == [("between:capture", PRICE.cents), ("between:refund", -PRICE.cents)]


async def test_a_refund_that_the_provider_will_not_make_is_told_and_not_tried_for_ever(both: Paying) -> None:
    await both.say(capture("kept"))
    await both.becomes("kept", "captured")
    await both.misbehave(decline_refund={"next": 1})
    await both.say(refund("kept"))

    async def told() -> bool:
        return (await both.told("kept"))[0] == ["payment.captured.v1", "payment.refund-failed.v1"]

    await until(told)
    assert await both.state("kept") == "captured"
    assert await both.shop.rows("payment", "SELECT due_at FROM capture WHERE order_id = 'kept'") == [(None,)]
    assert await both.moves("kept") == [("kept:capture", PRICE.cents)]
    assert (await both.told("kept"))[1] == ["payment.capture-replied.v1 captured"]


async def test_a_command_that_is_none_is_parked_with_the_reason(both: Paying) -> None:
    await both.say(capture("same"))
    await both.becomes("same", "captured")
    await both.publish("payment.capture.v1", b'{"order": "poison", "amount": "much"}', "poison")
    await both.say(capture("same", amount=Money(5)), id_="otherwise")
    reasons: dict[str, str] = {}
    async with both.shop.broker.connected() as connection:
        parked = await (await connection.channel()).get_queue("payment.commands.parked")
        async with asyncio.timeout(DEADLINE), parked.iterator() as messages:
            async for message in messages:
                await message.ack()
                reasons[message.message_id or ""] = str(message.headers["x-reason"])
                if len(reasons) == 2:
                    break
    assert "amount" in reasons["poison"]
    assert "has asked for" in reasons["otherwise"]
    await both.require_captured_once("same")


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("INSERT INTO transaction (id, order_id, reference) VALUES ('x', 'x', 'x')", errors.CheckViolation),
        (f"{BOOK} ('x', 'provider', 5, 'EUR')", errors.CheckViolation),
        (f"{BOOK} ('x', 'provider', 5, 'EUR'), ('x', 'revenue', -5, 'USD')", errors.CheckViolation),
        ("UPDATE entry SET cents = 1", errors.RestrictViolation),
        ("DELETE FROM transaction", errors.RestrictViolation),
        ("TRUNCATE entry", errors.RestrictViolation),
    ],
)
async def test_the_ledger_takes_nothing_that_does_not_sum_to_zero_and_forgets_nothing(
    both: Paying, statement: LiteralString, error: type[errors.Error]
) -> None:
    async with await AsyncConnection.connect(dsn(both.shop.postgres.url, "payment")) as connection:
        with pytest.raises(error):
            await connection.execute(f"{statement}; SET CONSTRAINTS ALL IMMEDIATE")
        await connection.rollback()


async def test_reconciliation_finds_what_one_side_only_knows(both: Paying) -> None:
    ghost = await both.signed("POST", "/v1/charges", {"amount": {"cents": 7, "currency": "EUR"}}, key="ghost:capture")
    assert ghost.status == 200
    both.before_payment.add(Refuse())
    await both.before_payment.sever()
    await both.misbehave(silent={"next": 1, "seconds": 3.0})
    await both.say(capture("flying"))
    await both.at_the_provider("flying:capture")
    seen = (await both.shop.ask(ONE, "/v1/reconciliation")).body
    found = {one["key"]: one for one in seen["differences"]}
    assert found["ghost:capture"]["theirs"] == {"cents": 7, "currency": "EUR"}
    assert found["ghost:capture"]["ours"] is None
    assert [key for key, one in found.items() if one["in_flight"]] == ["flying:capture"]
    await both.becomes("flying", "captured")
    seen = (await both.shop.ask(ONE, "/v1/reconciliation")).body
    lines = await both.shop.rows("provider", "SELECT count(*)::int FROM statement_line")
    assert lines == [(seen["lines"],)]
    assert {one["key"] for one in seen["differences"]} <= {"ghost:capture", "forged:capture"}


async def test_two_processes_share_the_work(both: Paying) -> None:
    services = both.shop.services
    with reserved() as port:
        environment = {
            **os.environ,
            "SHOP_POSTGRES_URL": f"postgresql://postgres@127.0.0.1:{both.shop.before_postgres.port}/postgres",
            "SHOP_RABBITMQ_URL": both.shop.broker.url,
            "SHOP_REDIS_URL": f"redis://127.0.0.1:{both.shop.before_redis.port}",
            "SHOP_PROVIDER_SECRET": SECRET,
            "SHOP_PAYMENT_1_PORT": str(port),
            "SHOP_PAYMENT_TO_PROVIDER_1": f"127.0.0.1:{both.before_provider.port}",
        }
        with (services.folder / "second.log").open("wb") as log:
            command = [sys.executable, "-m", "faultline.shop", "payment"]
            second = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220
        try:
            orders = [f"shared-{n}" for n in range(24)]

            async def ready() -> bool:
                try:
                    return (await ask(f"http://127.0.0.1:{port}/ready")).status == 200
                except OSError:
                    return False

            await until(ready)
            await both.say(*map(capture, orders))
            for order in orders:
                await both.becomes(order, "captured")
            await both.require_captured_once(orders[0])
            asked = "SELECT count(*)::int, sum(claims)::int FROM capture JOIN transaction USING (order_id)"
            ((captured, claims),) = await both.shop.rows("payment", f"{asked} WHERE order_id = ANY (%s)", orders)
            assert captured == len(orders)
            assert claims < 1.5 * captured, "both take on the same"
        finally:
            second.send_signal(SIGTERM)
            await asyncio.to_thread(second.wait, 20)
