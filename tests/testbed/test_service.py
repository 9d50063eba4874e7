"""A learner's process that serves HTTP: it answers, fails clearly, can be broken, and ends with its check."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

import pytest

from faultline.components import ports
from faultline.testbed import (
    Broken,
    BudgetMissed,
    Latency,
    Outcome,
    ProcessDied,
    Raised,
    Reset,
    Testbed,
    TestbedError,
    Unanswered,
)

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

APP = """
    import asyncio
    import http.client
    import os
    import signal
    from urllib.parse import urlsplit

    async def answer(send, status, body=b"", headers=()):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    async def app(scope, receive, send):
        assert scope["type"] == "http", scope["type"]
        print("asked", scope["method"], scope["path"])
        if scope["path"] == "/cookies":
            await answer(send, 200, b"", [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
        elif scope["path"] == "/client":
            await answer(send, 200, scope["client"][0].encode())
        elif scope["path"] == "/boom":
            raise ValueError("it broke")
        elif scope["path"] == "/exit":
            os._exit(7)
        elif scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            raise ValueError("in the middle")
        else:
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            body = scope["method"].encode() + b" " + body
            await answer(send, 200, body, [(b"content-length", b"%d" % len(body))])

    class Gateway:
        def __init__(self, load):
            self.load, self.in_flight, self.stopped = load, 0, False

        async def __call__(self, scope, receive, send):
            if scope["type"] == "lifespan":
                while True:
                    message = await receive()
                    if message["type"] == "lifespan.shutdown":
                        self.stopped = True
                        print("shut down in order")
                    await send({"type": message["type"] + ".complete"})
                    if message["type"] == "lifespan.shutdown":
                        return
            self.in_flight += 1
            try:
                await answer(send, 200, (await self.load(scope["path"])).encode())
            finally:
                self.in_flight -= 1

    def gateway(load):
        return Gateway(load)

    def starts(how):
        async def start(scope, receive, send):
            if scope["type"] != "lifespan":
                return await answer(send, 200)
            await receive()
            if how == "raises":
                try:
                    raise OSError("no database")
                except OSError:
                    await send({"type": "lifespan.startup.failed"})
                    raise
            if how == "says":
                await send({"type": "lifespan.startup.failed", "message": "no database"})
            if how == "hangs":
                await asyncio.Event().wait()
            if how == "exits":
                print("leaving")
                os._exit(3)
        return start

    def ask(url, target="/"):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        connection.request("GET", target)
        return connection.getresponse().read()

    def parents():
        os.kill(os.getppid(), signal.SIGTERM)

    number = 7
"""


async def test_an_app_is_there_when_it_accepts_and_answers_as_itself(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        shop = await testbed.process("shop")
        service = await testbed.serve(shop, "app")
        assert (await service.ask("/x", method="POST", body=b"hat")).body == b"POST hat"
        told = await service.ask("/cookies")
        assert [value for name, value in told.lines if name == "set-cookie"] == ["a=1", "b=2"]
        head = await service.ask("/", method="HEAD")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "5")
        spoofed = await service.ask("/client", headers={"X-Forwarded-For": "10.0.0.1"})
        assert spoofed.body == b"127.0.0.1", "what a client says of itself is the app's to judge"
        [operation] = testbed.history.operations("POST /x")
        assert (operation.lane, operation.outcome, operation.value) == ("shop", Outcome.OK, 200)
    assert "asked POST /x" in testbed.printed


async def test_an_app_that_was_made_serves_and_calls_the_check(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        load = testbed.callback(lambda path: path.upper(), name="load")
        shop = await testbed.process("shop")
        gateway = await shop.new("gateway", load)
        service = await testbed.serve(shop, gateway)
        load.hold()
        asked = [asyncio.create_task(service.ask("/hat")) for _ in range(3)]
        await load.called(3)
        assert await gateway.fetch("in_flight") == 3, "the same object, while it serves"
        load.release()
        assert [answer.body for answer in await asyncio.gather(*asked)] == [b"/HAT"] * 3
        assert await gateway.fetch("in_flight") == 0


async def test_another_process_of_the_learners_is_its_client(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        service = await testbed.serve(await testbed.process("shop"), "app")
        assert await (await testbed.process("visitor")).request(None, "ask", (service.url,), {}) == b"GET "


async def test_errors_of_the_app_are_answers_or_their_absence(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        shop = await testbed.process("shop")
        service = await testbed.serve(shop, "app")
        assert (await service.ask("/boom")).status == 500
        with pytest.raises(Unanswered, match=r"shop did not answer GET /half: .* gave no whole HTTP answer"):
            await service.ask("/half")
        with pytest.raises(ProcessDied, match=r"ended itself with exit code 7, .* when it was asked GET /exit"):
            await service.ask("/exit")
        with pytest.raises(ProcessDied):
            await service.ask("/")
    assert "ValueError: it broke" in testbed.printed


@pytest.mark.parametrize(
    ("how", "kind", "seen"),
    [
        ("raises", Raised, r"OSError: no database, at answer\.py:\d+"),
        ("says", Raised, "RuntimeError: the app cannot start: no database"),
        ("exits", ProcessDied, "exit code 3, .* in serve on .* last printed: leaving"),
    ],
)
async def test_an_app_that_does_not_come_up_says_why(
    on_testbed: OnTestbed, how: str, kind: type[Exception], seen: str
) -> None:
    async with on_testbed(APP) as testbed:
        shop = await testbed.process("shop")
        with pytest.raises(kind, match=seen):
            await testbed.serve(shop, await shop.new("starts", how))


async def test_an_app_that_hangs_at_its_start_misses_its_budget(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        shop = await testbed.process("shop")
        with pytest.raises(BudgetMissed, match=r"the app of shop did not come up within 0\.\d s"):
            await testbed.serve(shop, await shop.new("starts", "hangs"), within=0.3)


async def test_what_is_no_app_is_the_learners_mistake(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        shop = await testbed.process("shop")
        with pytest.raises(Raised, match=r"AttributeError: .* 'missing'"):
            await testbed.serve(shop, "missing")
        with pytest.raises(Broken, match="number is 7, not an object"):
            await testbed.serve(shop, "number")


async def test_a_killed_one_refuses_and_another_serves_on_its_port(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        first = await testbed.process("shop")
        service = await testbed.serve(first, "app")
        with pytest.raises(TestbedError, match=rf"port {service.port} is still held by process {first.pid} "):
            await testbed.serve(await testbed.process("second"), "app", port=service.port)
        idle = await asyncio.open_connection(service.host, service.port)
        await first.kill()
        with suppress(ConnectionResetError):  # one that it had not accepted yet
            assert await idle[0].read() == b"", "its connections are gone with it"
        idle[1].close()
        with pytest.raises(ProcessDied, match="shop was killed by the check before it was asked GET /"):
            await service.ask("/")
        second = await testbed.serve(await testbed.process("shop"), "app", port=service.port)
        assert second.url == service.url
        assert (await second.ask("/")).status == 200


async def test_a_paused_one_does_not_answer_and_then_does(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        service = await testbed.serve(await testbed.process("shop"), "app")
        async with testbed.paused(service.process):
            asked = asyncio.create_task(service.ask("/"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asked), 0.1)
        assert (await asked).status == 200


async def test_asked_to_end_it_answers_what_it_has_begun(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        load = testbed.callback(lambda path: path.upper(), name="load")
        shop = await testbed.process("shop")
        service = await testbed.serve(shop, await shop.new("gateway", load))
        load.hold()
        asked = asyncio.create_task(service.ask("/hat"))
        await load.called(1)
        await shop.terminate()

        async def refuses() -> bool:
            return ports.is_free(service.port)

        await testbed.until(refuses, "it accepted nothing more")
        with pytest.raises(BudgetMissed, match=r"shop still runs after 0\.\d s"):
            await shop.ended(within=0.1)
        load.release()
        assert (await asked).body == b"/HAT"
        assert await shop.ended(within=10) == -15
    assert "shut down in order" in testbed.printed


async def test_a_way_to_it_has_faults_holds_and_edges(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        service = await testbed.serve(await testbed.process("shop"), "app")
        way = await testbed.proxy(service)

        barrier = way.proxy.barrier(3, lambda _: True)
        asked = [asyncio.create_task(service.ask("/", over=way)) for _ in range(3)]
        await barrier.met(timeout=20)
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 3

        reached = list[str]()
        async for edge in testbed.edges(way):
            visitor = await testbed.process(f"visitor-{edge.number}")
            async with edge.kills(visitor):
                await visitor.request(None, "ask", (way.url, f"/edge-{edge.number}"), {})
            reached.append(f"asked GET /edge-{edge.number}")
        printed = service.process.printed()
        assert [line in printed for line in reached] == [False, True, True, True]

        testbed.inject(way, Latency(0.01))
        assert (await service.ask("/", over=way)).status == 200
        testbed.inject(way, Reset())
        with pytest.raises(Unanswered, match="shop did not answer GET /"):
            await service.ask("/", over=way)
        testbed.prove_faults()


async def test_a_caller_that_is_gone_is_forgotten_once_the_service_has_closed_its_end(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        service = await testbed.serve(await testbed.process("shop"), "app")
        _, writer = await asyncio.open_connection(service.host, service.port)
        port = writer.get_extra_info("sockname")[1]
        async with testbed.paused(service.process):
            writer.close()
            await writer.wait_closed()
            forgetting = asyncio.create_task(service.forgotten([port]))
            await asyncio.wait([forgetting], timeout=0.1)
            assert not forgetting.done()
        await forgetting


async def test_a_served_process_is_killed_at_the_edges_of_what_it_asks_for(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        load = testbed.callback(lambda path: path.upper(), name="load")
        answered = list[bool]()
        async for edge in testbed.edges(load):
            shop = await testbed.process(f"shop-{edge.number}")
            service = await testbed.serve(shop, await shop.new("gateway", load))
            answered.append(False)
            async with edge.kills(shop):
                answered[-1] = (await service.ask("/hat")).status == 200
        # Killed before the call, after it, and with its answer, when the page may be out already; the last is whole.
        assert (answered[:2], answered[3:]) == ([False, False], [True])
        testbed.prove_faults()


async def test_the_guard_holds_and_nothing_listens_when_the_check_is_over(on_testbed: OnTestbed) -> None:
    async with on_testbed(APP) as testbed:
        shop = await testbed.process("shop")
        service = await testbed.serve(shop, "app")
        with testbed.raises("PermissionError"):
            await shop.request(None, "parents", (), {})
        assert (await service.ask("/")).status == 200
    assert ports.is_free(service.port)
