"""What the gateway promises, from outside: what passes and how, and that one service's trouble is no other's."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest
import pytest_asyncio
import redis.asyncio
from tests.shop.conftest import Reply, Shop, opened, until
from tests.shop.outside import Heard, Outside, cut, fine, silent
from tests.shop.people import guest, guest_id

from faultline.components.faults import BlackHole
from faultline.testbed.speed import measured_lateness

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("gateway"),  # they share a shop
]
ORDER = {"lines": [{"sku": "hat", "quantity": 1}]}


@dataclass(frozen=True, slots=True)
class Front:
    """The gateway before the real catalog, and before services that do as they are told."""

    shop: Shop
    cart: Outside
    orders: tuple[Outside, Outside]
    stock: tuple[Outside, Outside]

    async def ask(self, path: str, body: object = None, *, user: str, method: str = "", **headers: str) -> Reply:
        return await self.shop.ask("gateway-1", path, body, method=method, X_Guest=guest(user), **headers)

    async def raw(self, request: str) -> tuple[str, dict[str, list[str]]]:
        """The first line of the answer and its headers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.shop.process("gateway-1").port)
        writer.write(request.replace("\n", "\r\n").encode())
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        writer.close()
        found: dict[str, list[str]] = {}
        for name, _, value in (line.partition(":") for line in rest if line):
            found.setdefault(name.lower(), []).append(value.strip())
        return first, found

    async def well(self, path: str) -> None:
        """Wait until its service is asked again: a test before may have had it left out."""
        tries = count()

        async def answers() -> bool:
            return (await self.ask(path, user=f"well-{path}-{next(tries)}")).status == 200

        await until(answers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """One front of all tests of this file."""
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with AsyncExitStack() as stack:
        cart, one, two, three, four = [await stack.enter_async_context(Outside()) for _ in range(5)]
        edges = {
            "SHOP_GATEWAY_TO_CART_1": cart.address,
            "SHOP_GATEWAY_TO_ORDERS_1": one.address,
            "SHOP_GATEWAY_TO_ORDERS_2": two.address,
            "SHOP_GATEWAY_TO_INVENTORY_1": three.address,
            "SHOP_GATEWAY_TO_INVENTORY_2": four.address,
        }
        shop = await stack.enter_async_context(opened(folder, shared_broker, names=("gateway", "catalog"), **edges))
        new = {"sku": "hat", "name": "hat", "category": "x", "price": {"cents": 500}}
        assert (await shop.ask("catalog-1", "/v1/products", new)).status == 201
        yield Front(shop, cart, (one, two), (three, four))


async def test_what_is_listed_passes_and_nothing_else(front: Front) -> None:
    reply = await front.ask("/api/v1/products/hat", user="lea")
    assert (reply.status, reply.headers["etag"], reply.body["price"]["cents"]) == (200, '"1"', 500)
    again = await front.ask("/api/v1/products/hat", user="lea", If_None_Match='"1"')
    assert (again.status, again.body) == (304, "")
    pages = await front.ask("/api/v1/products?limit=1&category=x%26y", user="lea")
    assert (pages.status, pages.body["items"]) == (200, [])
    missing = await front.ask("/api/v1/products/nothing", user="lea")
    assert (missing.status, missing.body["type"]) == (404, "/problems/unknown-product"), "the service's own answer"
    for path in (
        "/api/v1/secret",
        "/api/v1/products/",
        "/api/v1/products/hat%2Fprices",
        "/api/v1/products/..",
        "/api/v1/products/%2e%2e",
        "/api//v1/products",
        "/api/live",
        "/v1/products",
    ):
        reply = await front.ask(path, user="lea")
        assert (reply.status, reply.headers["content-type"]) == (404, "application/problem+json"), path
    reply = await front.ask("/api/v1/products", {}, user="lea", method="PATCH")
    assert (reply.status, reply.body["type"]) == (405, "/problems/method-not-allowed")
    docs = (await front.shop.ask("gateway-1", "/docs")).body
    assert all(path in docs for path in ("/api/v1/products/{sku}", "/api/v1/orders/{order}/stream", "/live"))
    assert (await front.shop.ask("gateway-1", "/ready")).status == 200


async def test_what_is_between_two_hops_stays_there_and_nobody_speaks_for_the_gateway(front: Front) -> None:
    async def answer(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: X-Inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=9\r\n"
            b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; Path=/\r\nLocation: /v1/cart\r\n"
            b"X-Request-Id: of-the-service\r\nContent-Length: 2\r\n\r\n{}"
        )

    front.cart.anew(answer)
    first, told = await front.raw(
        "PUT /api/v1/cart/lines/hat?x=%2F&y HTTP/1.1\nHost: evil.example\nConnection: X-Deadline-Remaining-Ms, X-Mine\n"
        "X-Mine: 1\nTE: trailers\nForwarded: for=6.6.6.6\nX-Forwarded-For: 6.6.6.6\nX-Forwarded-Host: evil.example\n"
        "X-Real-Ip: 6.6.6.6\nX-User: eve\nX-Whose: any\nX-Guest-User: eve\nX-Request-Id: mine-1\nCookie: c=3\n"
        f"Transfer-Encoding: chunked\nX-Guest: {guest('zoe')}\n\n2\n{{}}\n0\n\n"
    )
    (heard,) = front.cart.heard
    assert (heard.method, heard.target, heard.body) == ("PUT", "/v1/cart/lines/hat?x=%2F&y", b"{}")
    names = Counter(name for name, _ in heard.lines)
    assert not {"x-mine", "te", "forwarded", "x-forwarded-host", "x-real-ip", "transfer-encoding"} & set(names)
    assert not {"cookie", "x-guest", "x-whose", "x-guest-user"} & set(names)
    assert set(names.values()) == {1}
    assert heard.headers["x-forwarded-for"] == "127.0.0.1"
    assert (heard.headers["x-user"], heard.headers["x-request-id"]) == (guest_id("zoe"), "mine-1")
    assert heard.headers["host"] == front.cart.address
    assert 0 < int(heard.headers["x-deadline-remaining-ms"]) <= 3000, "a caller has it taken away"
    assert first == "HTTP/1.1 200 OK"
    assert not {"connection", "keep-alive", "x-inner"} & set(told)
    assert (told["set-cookie"], told["location"]) == (["a=1; Path=/", "b=2; Path=/"], ["/api/v1/cart"])
    assert (told["x-request-id"], told["content-length"]) == (["mine-1"], ["2"])

    front.cart.anew(fine)
    for name, value in (("X-Guest", guest("a")), ("Authorization", "Bearer 1"), ("Idempotency-Key", "1")):
        twice = f"{name}: {value}\n{name}: {value}"
        first, _ = await front.raw(f"GET /api/v1/cart HTTP/1.1\nHost: x\n{twice}\n\n")
        assert first == "HTTP/1.1 400 Bad Request"
    await front.ask("/api/v1/cart", user="ann")
    assert not front.cart.heard[0].headers.get("cookie"), "one caller's cookies were another's"
    assert len(front.cart.heard) == 1


async def test_a_body_that_is_too_large_reaches_nobody(front: Front) -> None:
    front.cart.anew(fine)
    start = f"PUT /api/v1/cart/lines/hat HTTP/1.1\nHost: x\nX-Guest: {guest('big')}\n"
    first, _ = await front.raw(f"{start}Content-Length: {64 * 1024 + 1}\n\n")
    assert first.startswith("HTTP/1.1 413 ")
    first, _ = await front.raw(
        f"{start}Transfer-Encoding: chunked\n\n{64 * 1024 + 1:x}\n{'x' * (64 * 1024 + 1)}\n0\n\n"
    )
    assert first.startswith("HTTP/1.1 413 ")
    assert front.cart.heard == []


async def test_a_deadline_shrinks_on_its_way_and_ends_the_wait(front: Front) -> None:
    front.cart.anew(silent)
    began = asyncio.get_running_loop().time()
    async with measured_lateness() as lateness:
        reply = await front.ask("/api/v1/cart", {}, method="DELETE", user="max", X_Deadline_Remaining_Ms="300")
    took = asyncio.get_running_loop().time() - began
    assert (reply.status, reply.body["type"]) == (504, "/problems/deadline")
    assert 0 < int(front.cart.heard[0].headers["x-deadline-remaining-ms"]) < 300
    assert took < 2.5 + lateness.seconds, "it has waited for longer than its caller did"
    front.cart.anew(fine)
    await front.ask("/api/v1/cart", {}, method="DELETE", user="max", X_Deadline_Remaining_Ms="60000")
    assert 2000 < int(front.cart.heard[0].headers["x-deadline-remaining-ms"]) < 3000
    for impatient in range(15):
        reply = await front.ask("/api/v1/cart", user=f"now-{impatient}", X_Deadline_Remaining_Ms="0")
        assert reply.status == 504
    assert (await front.ask("/api/v1/cart", user="max")).status == 200, "the impatient have it left out for all"


async def test_a_silent_service_starves_nobody_and_who_leaves_gives_their_place_back(front: Front) -> None:
    for round_ in range(5):
        if await starved(front, round_):
            break
    else:
        pytest.fail("they never waited until all had been asked: nothing is shown")

    replies = await asyncio.gather(*(front.ask("/api/v1/stock/hat", user=f"r{n}") for n in range(50)))
    assert {reply.status for reply in replies} == {200}, "a place is held for somebody who has gone"


async def starved(front: Front, round_: int) -> bool:
    """Whether all was seen before the first of those who wait was answered: on a busy machine, more often."""
    for one in front.stock:
        one.anew(fine)
    await front.well("/api/v1/stock/hat")
    for one in front.stock:
        one.anew(silent)

    async def full() -> bool:
        return sum(len(one.heard) for one in front.stock) >= 50

    waiting = [asyncio.create_task(front.ask("/api/v1/stock/hat", user=f"w{n}-{round_}")) for n in range(50)]
    try:
        await until(full)
        refused = await front.ask("/api/v1/stock/hat", user=f"refused-{round_}")
        others = await asyncio.gather(*(front.ask("/api/v1/products/hat", user=f"o{n}-{round_}") for n in range(20)))
    finally:
        for one in front.stock:
            one.anew(fine)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    if not all(task.cancelled() for task in waiting):
        return False
    assert (refused.status, refused.body["type"]) == (503, "/problems/overloaded")
    assert refused.headers["retry-after"] == "1"
    assert {reply.status for reply in others} == {200}, "another service is refused because this one is silent"
    return True


async def test_a_replica_that_is_killed_or_stands_still_is_not_seen_by_who_reads(front: Front) -> None:
    victim = front.shop.process("catalog-1").pid
    assert victim
    answers: list[int] = []

    async def read(name: str) -> None:
        for n in range(40):
            answers.append((await front.ask("/api/v1/products?limit=1", user=f"{name}-{n}")).status)
            if len(answers) == 20:
                os.kill(victim, SIGKILL)

    await asyncio.gather(*(read(f"reader-{n}") for n in range(4)))
    assert Counter(answers) == {200: 160}
    await front.shop.again("catalog-1", after=victim)
    still = front.shop.process("catalog-2").pid
    assert still
    os.kill(still, SIGSTOP)
    try:
        replies = await asyncio.gather(*(front.ask("/api/v1/products?limit=1", user=f"still-{n}") for n in range(6)))
        assert Counter(reply.status for reply in replies) == {200: 6}
    finally:
        os.kill(still, SIGCONT)


async def test_only_what_may_be_repeated_is_sent_again(front: Front) -> None:
    def both() -> list[Heard]:
        return [heard for one in front.orders for heard in one.heard]

    async def order(**key: str) -> Reply:
        for one in front.orders:
            one.anew(first_cut)
        return await front.ask("/api/v1/orders", ORDER, user="ann", **key)

    async def first_cut(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await (cut if len(both()) == 1 else fine)(heard, writer)

    reply = await order()
    assert (reply.status, reply.body["type"]) == (502, "/problems/upstream")
    assert len(both()) == 1, "nobody knows what has become of it, and it was sent again"
    assert (await order(Idempotency_Key="k")).status == 200
    assert [(heard.headers["idempotency-key"], json.loads(heard.body)) for heard in both()] == [("k", ORDER)] * 2
    assert {len(one.heard) for one in front.orders} == {1}, "again at the same replica"
    front.cart.anew(fine)
    change = "/api/v1/cart/lines/hat"
    assert (await front.ask(change, {"quantity": 1}, method="PUT", user="ann")).status == 200

    async def breaks(heard: Heard, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    front.cart.anew(breaks)
    for given in ({}, {"Idempotency_Key": "k"}):
        reply = await front.ask(change, {"quantity": 2}, method="PUT", user="ann", **given)
        assert reply.status == 502
    assert len(front.cart.heard) == 2, "the client sends changes again by itself, on a kept connection"


async def test_of_many_that_fail_few_are_sent_again(front: Front) -> None:
    for one in front.orders:
        one.anew(fine)
    await front.well("/api/v1/orders")
    seen: Counter[str] = Counter()

    async def first_cut(heard: Heard, writer: asyncio.StreamWriter) -> None:
        name = heard.headers["x-request-id"]
        seen[name] += 1
        await (cut if seen[name] == 1 else fine)(heard, writer)

    for one in front.orders:
        one.anew(first_cut)
    for n in range(40):
        await front.ask("/api/v1/orders", user="many", X_Request_Id=f"many-{n}")
    again = sum(times - 1 for times in seen.values())
    assert 5 <= again <= 10 + 0.1 * 40, f"{again} of {len(seen)} were sent again"
    for one in front.orders:
        one.anew(fine)


async def test_who_streams_gets_each_piece_when_it_comes(front: Front) -> None:
    for one in front.orders:
        one.anew(fine)
    await front.well("/api/v1/orders")
    more, gone = asyncio.Event(), asyncio.Event()

    async def events(heard: Heard, writer: asyncio.StreamWriter) -> None:
        assert heard.headers["accept"] == "text/event-stream"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"f\r\ndata: pending\n\n\r\n")
        await more.wait()
        writer.write(b"11\r\ndata: confirmed\n\n\r\n")

        async def closed() -> bool:
            writer.write(b"2\r\n:\n\r\n")
            await writer.drain()
            return writer.transport.is_closing()

        with suppress(ConnectionError):
            await until(closed)
        gone.set()

    for one in front.orders:
        one.anew(events)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.shop.process("gateway-1").port)
    path = "/api/v1/orders/o-1/stream"
    who = f"X-Guest: {guest('ann')}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{who}\r\nAccept: text/event-stream\r\n\r\n".encode())
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"data: pending\n\n")
        assert b"text/event-stream" in head
        more.set()
        await reader.readuntil(b"data: confirmed\n\n")
        writer.close()
        await gone.wait()
    for one in front.orders:
        one.anew(fine)


async def test_a_caller_may_ask_so_often_and_is_no_other_by_what_they_say(front: Front) -> None:
    front.cart.anew(fine)
    users = (f"greedy-{n}" for n in count())

    async def exact() -> bool:  # not whenever Redis is slow because the machine is: then it counts nobody
        user, replies = next(users), list[Reply]()
        for _ in range(11):
            replies += await asyncio.gather(*(front.ask("/api/v1/cart", user=user) for _ in range(10)))
        if Counter(reply.status for reply in replies) != {200: 100, 429: 10}:
            return False
        late = next(reply for reply in replies if reply.status == 429)
        assert late.body["type"] == "/problems/too-many-requests"
        assert 0 < int(late.headers["retry-after"]) <= 60
        return True

    await until(exact)
    assert (await front.ask("/api/v1/cart", user="modest")).status == 200
    others = (f"10.0.{n // 256}.{n % 256}" for n in count())

    async def refused() -> bool:
        reply = await front.shop.ask("gateway-1", "/api/v1/cart", X_Forwarded_For=next(others))
        return reply.status == 429

    await until(refused)


@asynccontextmanager
async def redis_gone(front: Front) -> AsyncIterator[None]:
    await front.shop.redis.kill()
    try:
        yield
    finally:
        await front.shop.redis.start()


async def test_without_redis_nobody_is_counted(front: Front) -> None:
    front.cart.anew(fine)
    black = front.shop.before_redis.add(BlackHole())
    for n in range(6):
        assert (await front.ask("/api/v1/cart", user=f"silent-{n}")).status == 200
    front.shop.before_redis.remove(black)
    async with redis_gone(front):
        replies = [await front.ask("/api/v1/cart", user="uncounted") for _ in range(110)]
        assert Counter(reply.status for reply in replies) == {200: 110}

    names = (f"back-{n}" for n in count())

    async def counted() -> bool:
        name = next(names)
        assert (await front.ask("/api/v1/cart", user=name)).status == 200
        async with redis.asyncio.Redis(host=front.shop.redis.host, port=front.shop.redis.port) as client:
            return await client.exists(f"rate:user:{guest_id(name)}") == 1

    await until(counted)
