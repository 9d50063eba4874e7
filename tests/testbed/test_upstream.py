"""An HTTP service of the check: real sockets, answers as the check wants them, and nothing that came is forgotten."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from faultline.testbed import BudgetMissed, HttpAnswer, HttpRequest, Latency, Reset, Testbed, TestbedError

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

CLIENT = """
    import asyncio
    import http.client
    from urllib.parse import urlsplit

    def ask(url, method="GET", target="/", body=None, headers={}, chunked=False):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        body = iter([body[:2].encode(), body[2:].encode()]) if chunked else body
        connection.request(method, target, body, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        return {"status": answer.status, "body": answer.read(), "after": answer.getheader("Retry-After")}

    def twice(url):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        bodies = []
        for _ in range(2):
            connection.request("POST", "/", b"x")
            bodies.append(connection.getresponse().read())
        return bodies

    async def give_up(url, seconds):
        reader, writer = await asyncio.open_connection(*urlsplit(url).netloc.split(":"))
        writer.write(b"GET /slow HTTP/1.1\\r\\nHost: shop\\r\\n\\r\\n")
        try:
            await asyncio.wait_for(reader.read(), seconds)
        except TimeoutError:
            return "gave up"
        finally:
            writer.close()
"""


async def test_it_answers_as_the_check_says_and_knows_what_it_was_asked(on_testbed: OnTestbed) -> None:
    async with on_testbed(CLIENT) as testbed:
        shop = await testbed.process("shop")
        payment = await testbed.upstream(
            lambda request: HttpAnswer(503, request.body[::-1], {"Retry-After": "3600"}), name="payment"
        )
        sent = {"method": "POST", "target": "/pay?x=1", "body": "hat", "headers": {"Idempotency-Key": "7"}}
        answer = await shop.request(None, "ask", (payment.url,), sent)
        assert answer == {"status": 503, "body": b"tah", "after": "3600"}
        [request] = payment.requests
        assert (request.method, request.target, request.body) == ("POST", "/pay?x=1", b"hat")
        assert request.header("idempotency-key") == "7"

        payment.answer = lambda request: HttpAnswer(body=request.body)
        chunked = {**sent, "chunked": True, "headers": {"Transfer-Encoding": "chunked"}}
        assert (await shop.request(None, "ask", (payment.url,), chunked))["body"] == b"hat"
        assert (await shop.request(None, "ask", (payment.url,), {"method": "HEAD"}))["body"] == b""
        assert await shop.request(None, "twice", (payment.url,), {}) == [b"x", b"x"]
        assert len(payment.requests) == 5


async def test_held_requests_have_come_and_have_no_answer(on_testbed: OnTestbed) -> None:
    async with on_testbed(CLIENT) as testbed:
        payment = await testbed.upstream(lambda _: HttpAnswer(204))
        payment.hold()
        shops = await testbed.processes(3, "shop")
        asked = [asyncio.create_task(shop.request(None, "ask", (payment.url,), {})) for shop in shops]
        await payment.asked(3)
        assert not any(task.done() for task in asked)
        payment.release()
        assert [answer["status"] for answer in await asyncio.gather(*asked)] == [204] * 3
        with pytest.raises(BudgetMissed, match=r"upstream was asked 3 times within 0\.1 s; expected were 4"):
            await payment.asked(4, within=0.1)


async def test_a_short_body_is_an_error_at_the_client_and_a_dripping_one_is_not(on_testbed: OnTestbed) -> None:
    async with on_testbed(CLIENT) as testbed:
        shop = await testbed.process("shop")
        upstream = await testbed.upstream(lambda _: HttpAnswer(body=b"x" * 100, cut=10))
        with testbed.raises("IncompleteRead"):
            await shop.request(None, "ask", (upstream.url,), {})
        upstream.answer = lambda _: HttpAnswer(body=b"x" * 100, drip=10, pause=0.001)
        assert (await shop.request(None, "ask", (upstream.url,), {}))["body"] == b"x" * 100


async def test_a_client_that_gives_up_cancels_the_answer(on_testbed: OnTestbed) -> None:
    async with on_testbed(CLIENT) as testbed:
        stopped = asyncio.Event()

        async def slow(_: HttpRequest) -> HttpAnswer:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            raise AssertionError

        upstream = await testbed.upstream(slow)
        shop = await testbed.process("shop")
        assert await shop.request(None, "give_up", (upstream.url, 0.05), {}) == "gave up"
        await asyncio.wait_for(stopped.wait(), 5)
        await asyncio.wait_for(upstream.requests[0].abandoned.wait(), 5)


async def test_a_way_to_it_has_faults_counts_holds_and_edges(on_testbed: OnTestbed) -> None:
    async with on_testbed(CLIENT) as testbed:
        charged = list[str]()

        def charge(request: HttpRequest) -> HttpAnswer:
            charged.append(request.target)
            return HttpAnswer(201)

        upstream = await testbed.upstream(charge, name="payment")
        way = await testbed.proxy(upstream)
        seen = list[tuple[bool, int]]()
        async for edge in testbed.edges(way):
            charged.clear()
            shop = await testbed.process(f"shop-{edge.number}")
            async with edge.kills(shop):
                await shop.request(None, "ask", (way.url, "POST", "/pay"), {})
            seen.append((edge.hit, len(charged)))
        assert seen == [(True, 0), (True, 1), (True, 1), (False, 1)]
        assert way.requests == 4

        testbed.inject(way, Latency(0.01))
        assert (await (await testbed.process("last")).request(None, "ask", (way.url,), {}))["status"] == 201
        testbed.inject(way, Reset())
        with testbed.raises("ConnectionError"):
            await (await testbed.process("reset")).request(None, "ask", (way.url,), {})
        testbed.prove_faults()


async def test_what_is_no_request_is_refused_and_what_the_check_does_wrong_is_the_checks(on_testbed: OnTestbed) -> None:
    async with on_testbed(CLIENT) as testbed:
        upstream = await testbed.upstream(lambda request: {}[request.target])
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(b"hello\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 400 ")
        writer.close()
        assert upstream.requests == []
        testbed.prove_faults()

        answer = await (await testbed.process("shop")).request(None, "ask", (upstream.url,), {})
        assert answer["status"] == 500
        with pytest.raises(TestbedError, match="the check's function for upstream broke: KeyError"):
            testbed.prove_faults()
