"""The learner's code calls functions of the check: what goes in, what comes out, and who is to blame."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from faultline.testbed import BudgetMissed, Call, Named, Outcome, Raised, Remote, Testbed, TestbedError, Throw, Vacuous

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

CACHE = """
    import asyncio

    class Declined(Exception):
        def __init__(self, reason, code=0):
            super().__init__(reason)
            self.code = code

    class Entry:
        def __init__(self, price):
            self.price = price

    class Cache:
        def __init__(self, load, told=None, ignore=()):
            self.load, self.told, self.ignore = load, told, ignore
            self.found, self.loading = {}, {}

        async def get(self, key):
            return await self.load(key)

        async def get_once(self, key):
            if key not in self.loading:
                self.loading[key] = asyncio.ensure_future(self.load(key))
            return await asyncio.shield(self.loading[key])

        async def get_within(self, key, seconds):
            try:
                return await asyncio.wait_for(self.load(key), seconds)
            except TimeoutError:
                return "too late"

        async def caught(self, key):
            try:
                return await self.load(key)
            except self.ignore as error:
                return {"kind": type(error).__name__, "code": getattr(error, "code", None), "text": str(error)}

        def tell(self, what):
            return self.told(what)

        async def hand_over(self):
            return await self.load(Entry(5))

        def same(self, other):
            return self.load is other and asyncio.iscoroutinefunction(other) and other.__name__

    async def use(database):
        await database.set_price("hat", 5)
        return await database.get_price("hat")
"""


async def cache_of(testbed: Testbed, *arguments: Any, **more: Any) -> Remote:
    return await (await testbed.process("shop")).new("Cache", *arguments, **more)


async def test_what_the_check_returns_arrives_and_each_call_is_counted_and_in_the_history(
    on_testbed: OnTestbed,
) -> None:
    async with on_testbed(CACHE) as testbed:
        load = testbed.callback(lambda key: {"price": len(key), "large": 2**70}, name="load")
        cache = await cache_of(testbed, load)

        assert await cache.get("hat") == {"price": 3, "large": 2**70}

        [call] = load.calls
        assert (call.process, call.args, call.kwargs) == (cache.process, ("hat",), {})
        [operation] = testbed.history.operations("load")
        assert (operation.lane, operation.what, operation.outcome) == ("shop", "load(hat)", Outcome.OK)
        [got] = testbed.history.operations("get")
        assert got.end is not None
        assert operation.end is not None
        assert got.start <= operation.start <= operation.end <= got.end


async def test_held_calls_have_come_and_nothing_of_them_has_happened(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:
        loaded = list[str]()
        load = testbed.callback(loaded.append, name="load")
        processes = await testbed.processes(4, "shop")
        caches = [await process.new("Cache", load) for process in processes]
        load.hold()

        asked = [asyncio.create_task(cache.get_once("hat")) for cache in caches for _ in range(50)]
        await load.called(4)

        assert loaded == []
        load.release()
        await asyncio.gather(*asked)
        assert loaded == ["hat"] * 4, "each process loads once, and all of the test's 200 callers are answered"


async def test_calls_that_do_not_come_are_a_budget_missed(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:
        load = testbed.callback(lambda key: key, name="load")
        cache = await cache_of(testbed, load)
        await cache.get("hat")
        with pytest.raises(BudgetMissed, match=r"`load` was called 1 times within 0\.1 s; expected were 2"):
            await load.called(2, within=0.1)


async def test_exceptions_arrive_as_what_they_are_there(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:

        async def load(key: str) -> None:
            match key:
                case "declined":
                    raise Throw("Declined", "no money", code=51)
                case "redis":
                    raise Throw("redis.exceptions.ConnectionError", "gone")
                case "timeout":
                    raise TimeoutError("slow")
                case _:
                    raise ConnectionResetError(104, "reset")

        loading = testbed.callback(load)
        caught = (Named("Declined"), Named("OSError"), Named("redis.exceptions.ConnectionError"))
        cache = await cache_of(testbed, loading, ignore=caught)

        assert await cache.caught("declined") == {"kind": "Declined", "code": 51, "text": "no money"}
        assert await cache.caught("redis") == {"kind": "ConnectionError", "code": None, "text": "gone"}
        assert await cache.caught("timeout") == {"kind": "TimeoutError", "code": None, "text": "slow"}
        assert (await cache.caught("other"))["kind"] == "ConnectionResetError"
        with pytest.raises(Raised, match="no money") as declined:
            await cache.get("declined")
        assert declined.value.kind == "Declined"
        assert "answer.py:" in declined.value.where
        assert testbed.history.operations("load")[-1].outcome is Outcome.FAILED
        testbed.prove_faults()


async def test_an_exception_that_the_solution_does_not_have_says_so_there(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:

        def load(_: str) -> None:
            raise Throw("Refused", "no")

        cache = await cache_of(testbed, testbed.callback(load))
        with pytest.raises(Raised, match="the check raised Refused, which cannot be made here"):
            await cache.get("hat")


@pytest.mark.parametrize(("error", "seen"), [(AssertionError("twice"), AssertionError), (Vacuous("odd"), TestbedError)])
async def test_what_the_checks_own_function_finds_or_does_wrong_is_the_checks(
    on_testbed: OnTestbed, error: Exception, seen: type[Exception]
) -> None:
    async with on_testbed(CACHE) as testbed:

        def load(_: str) -> None:
            raise error

        cache = await cache_of(testbed, testbed.callback(load))
        with pytest.raises(Raised, match="the check's function broke"):
            await cache.get("hat")
        for prove in (testbed.prove_faults, testbed.prove_faults_met):
            with pytest.raises(seen, match=str(error)):
                prove()


async def test_who_gives_up_waiting_cancels_the_call_in_the_check(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:
        cancelled = asyncio.Event()

        async def load(_: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        cache = await cache_of(testbed, testbed.callback(load))
        assert await cache.get_within("hat", 0.05) == "too late"
        await asyncio.wait_for(cancelled.wait(), 5)
        [operation] = testbed.history.operations("load")
        assert operation.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("by", ["kill", "the end of the check"])
async def test_a_call_ends_with_the_process_that_made_it(on_testbed: OnTestbed, by: str) -> None:
    ended = asyncio.Event()

    async def load(_: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with on_testbed(CACHE) as testbed:
        loading = testbed.callback(load)
        cache = await cache_of(testbed, loading)
        asked = asyncio.create_task(cache.get("hat"))
        call = await loading.called()
        if by == "kill":
            await call.process.kill()
            await asyncio.wait_for(ended.wait(), 5)
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.gather(asked, return_exceptions=True)


async def test_what_only_wants_to_be_told_is_a_plain_function_there(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:
        told = testbed.callback(lambda what: "nobody hears this", name="told", tells=True)
        cache = await cache_of(testbed, testbed.callback(print), told)
        assert [await cache.tell(state) for state in ("open", "closed")] == [None, None]
        await told.called(2)
        assert [call.args for call in told.calls] == [("open",), ("closed",)]


async def test_an_interface_is_an_object_with_async_methods(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:
        prices = dict[str, int]()
        database = testbed.interface(set_price=prices.__setitem__, get_price=prices.get)
        process = await testbed.process("shop")
        assert await process.request(None, "use", (database,), {}) == 5
        assert len(database.set_price.calls) == 1
        with pytest.raises(AttributeError):
            assert database.drop_everything


async def test_the_same_function_arrives_as_the_same_and_objects_come_back(on_testbed: OnTestbed) -> None:
    async with on_testbed(CACHE) as testbed:
        load = testbed.callback(lambda entry: entry.price, name="load")
        cache = await cache_of(testbed, load)
        assert await cache.same(load) == "load"
        assert await cache.hand_over() == 5


ROOM = """
    import asyncio

    class Room:
        def __init__(self, limit):
            self.places = asyncio.Semaphore(limit)
            self.inside = 0
            self.leave = asyncio.Event()

        async def enter(self):
            async with self.places:
                self.inside += 1
                try:
                    await self.leave.wait()
                finally:
                    self.inside -= 1

        async def deaf(self):
            try:
                await self.leave.wait()
            except asyncio.CancelledError:
                return "went on"

        async def stuck(self):
            while not self.leave.is_set():
                try:
                    await self.leave.wait()
                except asyncio.CancelledError:
                    pass

        async def quick(self):
            return 1

        def open(self):
            self.leave.set()
"""


async def test_a_cancelled_call_sees_it_and_the_others_do_not(on_testbed: OnTestbed) -> None:
    async with on_testbed(ROOM) as testbed:
        room = await (await testbed.process("shop")).new("Room", 2)
        first, second, third = calls = [room.process.call(room, "enter") for _ in range(3)]
        assert await room.fetch("inside") == 2

        assert await first.cancel() is True
        assert await room.fetch("inside") == 2, "the third has the first's place"

        assert await third.cancel() is True
        assert await room.fetch("inside") == 1
        await room.open()
        assert await second is None
        assert [call.operation.outcome for call in calls] == [Outcome.FAILED, Outcome.OK, Outcome.FAILED]
        assert first.operation.value == "CancelledError"


async def test_a_call_that_swallows_its_cancellation_is_seen(on_testbed: OnTestbed) -> None:
    async with on_testbed(ROOM) as testbed:
        room = await (await testbed.process("shop")).new("Room", 1)
        deaf: Call = room.process.call(room, "deaf")
        assert await deaf.cancel() is False
        assert await deaf == "went on"


async def test_a_call_that_goes_on_when_cancelled_is_a_budget_missed(
    on_testbed: OnTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faultline.testbed.call._ENDS_WITHIN", 0.1)
    async with on_testbed(ROOM) as testbed:
        room = await (await testbed.process("shop")).new("Room", 1)
        stuck = room.process.call(room, "stuck")
        with pytest.raises(BudgetMissed, match=r"stuck\(\) was cancelled and still runs after 0.1 s"):
            await stuck.cancel()
        await room.open()
        await stuck


async def test_cancelling_what_has_ended_proves_nothing(on_testbed: OnTestbed) -> None:
    async with on_testbed(ROOM) as testbed:
        room = await (await testbed.process("shop")).new("Room", 1)
        quick = room.process.call(room, "quick")
        assert await quick == 1
        with pytest.raises(Vacuous, match=r"quick\(\) had ended before it could be cancelled"):
            await quick.cancel()


BREAKER = """
    import time

    class Breaker:
        def __init__(self, clock, open_for):
            self.clock, self.open_for, self.opened = clock, open_for, clock()

        def is_open(self):
            return self.clock() < self.opened + self.open_for

        def clock_is_ignored(self):
            return time.monotonic()
"""


async def test_an_injected_clock_shows_what_the_check_sets_in_every_process(on_testbed: OnTestbed) -> None:
    async with on_testbed(BREAKER) as testbed:
        clock = testbed.clock()
        breakers = [await process.new("Breaker", clock, 30.0) for process in await testbed.processes(2, "shop")]
        assert [await breaker.is_open() for breaker in breakers] == [True, True]

        clock.advance(29.999)
        assert [await breaker.is_open() for breaker in breakers] == [True, True]
        clock.advance(0.001)
        assert [await breaker.is_open() for breaker in breakers] == [False, False]

        clock.set(1000.0)
        assert await breakers[0].is_open() is True
        testbed.prove_faults()


async def test_a_clock_that_was_moved_and_never_read_proves_nothing(on_testbed: OnTestbed) -> None:
    async with on_testbed(BREAKER) as testbed:
        clock = testbed.clock()
        breaker = await (await testbed.process("shop")).new("Breaker", clock, 30.0)
        clock.advance(60)
        await breaker.clock_is_ignored()
        with pytest.raises(Vacuous, match="the clock that the check sets"):
            testbed.prove_faults()
