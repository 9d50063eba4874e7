"""What the provider is like: an outside world that keeps its keys and its statement, however it misbehaves."""

import asyncio
import os
from collections.abc import AsyncIterator
from signal import SIGKILL

import pytest
import pytest_asyncio
from tests.shop.conftest import Reply, until
from tests.shop.paying import OUTSIDE, SECRET, Paying, paying

from faultline.components.faults import Refuse
from faultline.shop.signatures import Signatures

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("provider"),  # they share the services
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Paying]:
    folder = tmp_path_factory.mktemp("provider")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with paying(folder, shared_broker) as one:
        yield one


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def healed(both: Paying) -> AsyncIterator[None]:
    yield
    await both.heal()


async def charge(both: Paying, key: str, cents: int = 500) -> Reply:
    return await both.signed("POST", "/v1/charges", {"amount": {"cents": cents, "currency": "EUR"}}, key=key)


async def refund(both: Paying, key: str, charged: str) -> Reply:
    return await both.signed("POST", "/v1/refunds", {"charge": charged}, key=key)


async def test_the_same_key_is_the_same_charge(both: Paying) -> None:
    replies = await asyncio.gather(*(charge(both, "one") for _ in range(10)))
    assert {reply.status for reply in replies} == {200}
    assert all(reply.body == replies[0].body for reply in replies)
    assert (await charge(both, "one", 501)).status == 409
    assert (await refund(both, "one", "one")).status == 409
    assert (await both.signed("GET", "/v1/charges/one")).body == replies[0].body
    assert (await both.signed("GET", "/v1/refunds/one")).status == 404
    lines = await both.shop.rows("provider", "SELECT cents::int FROM statement_line WHERE key = 'one'")
    assert lines == [(500,)]


async def test_what_was_declined_stays_so_and_moves_nothing(both: Paying) -> None:
    await both.misbehave(decline={"next": 1})
    first = await charge(both, "poor")
    assert (first.body["status"], first.body["code"]) == ("declined", "declined")
    assert (await charge(both, "poor")).body == first.body
    assert (await refund(both, "poor-back", "poor")).status == 404
    assert await both.shop.rows("provider", "SELECT FROM statement_line WHERE key LIKE 'poor' || %s", "") == []


async def test_a_charge_is_given_back_once_under_whatever_keys(both: Paying) -> None:
    await charge(both, "gift")
    assert (await refund(both, "no-gift", "never")).status == 404
    replies = await asyncio.gather(*(refund(both, f"back-{n}", "gift") for n in range(5)))
    codes = sorted(reply.body["code"] for reply in replies)
    assert codes == ["", *["already-refunded"] * 4]
    lines = await both.shop.rows("provider", "SELECT cents::int FROM statement_line WHERE cents < 0")
    assert lines == [(-500,)]


async def test_the_statement_is_read_page_by_page_while_it_grows(both: Paying) -> None:
    seen: list[str] = []
    position = 0

    async def read() -> bool:
        nonlocal position
        page = (await both.signed("GET", f"/v1/statement?after={position}&limit=3")).body["lines"]
        seen.extend(line["key"] for line in page)
        position = page[-1]["position"] if page else position
        return not page

    charges = [asyncio.create_task(charge(both, f"line-{n}")) for n in range(20)]
    while not all(task.done() for task in charges):
        await read()
    await until(read)
    rows = await both.shop.rows("provider", "SELECT key FROM statement_line ORDER BY position")
    assert seen == [key for (key,) in rows]
    assert {f"line-{n}" for n in range(20)} <= set(seen)


async def test_who_does_not_sign_moves_no_money(both: Paying) -> None:
    body = {"amount": {"cents": 5, "currency": "EUR"}}
    raw = b'{"amount": {"cents": 5, "currency": "EUR"}}'
    mine = Signatures(SECRET).headers("POST", "/v1/charges", raw, key="mine")
    for changed in ({"x-signature": ""}, {"idempotency-key": "again"}, {"x-signature": "t=1,v1=00"}):
        assert (await both.shop.ask(OUTSIDE, "/v1/charges", body, **{**mine, **changed})).status == 401
    assert (await both.shop.ask(OUTSIDE, "/v1/charges", {**body, "card": "x"}, **mine)).status == 401
    assert (await both.shop.ask(OUTSIDE, "/v1/statement")).status == 401
    assert (await both.shop.ask(OUTSIDE, "/v1/charges", body, **mine)).status == 200


async def test_how_it_misbehaves_is_kept_over_a_kill(both: Paying) -> None:
    await both.misbehave(gone={"next": 3})
    assert (await charge(both, "later")).status == 503
    pid = both.shop.process(OUTSIDE).pid
    assert pid
    os.kill(pid, SIGKILL)
    await both.shop.again(OUTSIDE, after=pid)
    statuses = [(await charge(both, "later")).status for _ in range(3)]
    assert statuses == [503, 503, 200]
    left = (await both.shop.ask(OUTSIDE, "/v1/behaviour")).body
    assert left["gone"]["next"] == 0


async def test_a_webhook_is_sent_until_it_is_acknowledged(both: Paying) -> None:
    both.before_payment.add(Refuse())
    await both.before_payment.sever()
    await both.misbehave(twice={"next": 1})
    await charge(both, "told")
    attempts = "SELECT attempts, acknowledged_at IS NOT NULL FROM webhook WHERE key = 'told' ORDER BY id"

    async def tried() -> bool:
        return all(n >= 2 and not done for n, done in await both.shop.rows("provider", attempts))

    await until(tried)
    both.before_payment.heal()

    async def acknowledged() -> bool:
        rows = await both.shop.rows("provider", attempts)
        return len(rows) == 2 and all(done for _, done in rows)

    await until(acknowledged)
