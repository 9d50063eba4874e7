"""The grader of redis/02: what a cache costs, what it must never cost, and what it does when somebody dies."""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any

from faultline.testbed import (
    Broken,
    BudgetMissed,
    Callback,
    Latency,
    LearnerProcess,
    ProcessDied,
    ProxiedRedis,
    Raised,
    RedisServer,
    Remote,
    Testbed,
    TestbedError,
    Vacuous,
)

HAT = {"id": "hat", "name": "Hüt", "price": 1999}
NEW = {"id": "hat", "name": "Hüt", "price": 999}
SHOE = {"id": "hat-2", "name": "Trail hat", "price": 8900}  # its ID begins as the other one does
CALLERS = 50
LATE = 0.05  # seconds by which a process wakes too late: then an answer of Redis within that time is in doubt


class Shelf:
    """The database: what it holds, and from which of its reads on each has to wait to be let go."""

    def __init__(self, *products: dict[str, Any]) -> None:
        self.products = {product["id"]: product for product in products}
        self.waits = 0
        self._gates: list[asyncio.Event] = []

    async def load(self, product_id: str) -> dict[str, Any] | None:
        """What the database says at this moment; the answer may take its time."""
        found = self.products.get(product_id)
        gate = asyncio.Event()
        self._gates.append(gate)
        if len(self._gates) <= self.waits:
            await gate.wait()
        return found

    def let_go(self, number: int) -> None:
        """That read, counted from 1, has its answer."""
        self._gates[number - 1].set()


def some(number: int) -> dict[str, Any]:
    """One of many products."""
    return {"id": f"sku-{number}", "name": f"Product {number}", "price": number}


async def cache(
    testbed: Testbed, page: LearnerProcess, server: RedisServer | ProxiedRedis, load: Callback, ttl: float = 60.0
) -> Remote:
    """The learner's cache in that process, which has a connection to Redis."""
    known = Shelf({"id": "warm", "name": "", "price": 0})
    other = await new(page, server, testbed.callback(known.load, name="load"))
    await other.get("warm")
    return await new(page, server, load, ttl)


async def new(page: LearnerProcess, server: RedisServer | ProxiedRedis, load: Callback, ttl: float = 60.0) -> Remote:
    """A cache in that process: it talks to no server yet."""
    return await page.new("ProductCache", server.at(), load, ttl)


def callers(where: Remote, count: int, product_id: str = "hat") -> list[asyncio.Task[Any]]:
    """So many tasks that ask for the product."""
    return [asyncio.create_task(outcome(where.get(product_id))) for _ in range(count)]


async def outcome(operation: Awaitable[Any]) -> Any:
    """What became of it, for one that may raise or be killed."""
    try:
        return await operation
    except (Raised, ProcessDied) as error:
        return error


async def loading(load: Callback, asked: Sequence[asyncio.Task[Any]], count: int = 1, within: float = 5.0) -> None:
    """Return when `load` has been called so many times; those who asked can have no answer before that."""
    called = asyncio.create_task(load.called(count, within=within))
    while not called.done():
        waiting = [task for task in asked if not task.done()]
        await asyncio.wait([called, *waiting], return_when=asyncio.FIRST_COMPLETED)
        if not called.done() and len(waiting) > len([task for task in asked if not task.done()]):
            called.cancel()
            raise Broken(f"`load` has not answered, and a `get` that had to wait for it gave {first(asked)}")
    await called


async def given(testbed: Testbed, asked: Sequence[asyncio.Task[Any]], within: float, promise: str) -> list[Any]:
    """What all of them came to; a slow machine may take its time, and code that waits for ever may not."""
    with testbed.within(within, promise):
        patience = (within + 1.5) * testbed.patience
        _, waiting = await asyncio.wait(asked, timeout=patience)
        if waiting:
            seen = f"after {patience:.1f} s {len(waiting)} of {len(asked)} still wait: it was promised that {promise}"
            raise BudgetMissed(seen, promise=promise, took=patience)
    return [task.result() for task in asked]


def first(asked: Sequence[asyncio.Task[Any]]) -> str:
    """What the first one that has ended came to."""
    return next(repr(task.result()) for task in asked if task.done())


async def all_wait(testbed: Testbed, redis: RedisServer, load: Callback, *waiting: Remote) -> None:
    """Return when all calls that were sent to these caches have begun, and have had the time to do what they do first.

    A process takes its messages in their order: when it has made another cache, it has begun what came before.
    """
    for _ in range(2):
        await asyncio.gather(*(new(each.process, redis, load) for each in waiting))
        await pass_time(testbed, 0.1)


async def pass_time(testbed: Testbed, seconds: float) -> None:
    """For what must not happen meanwhile: a longer time can only show more of it."""
    end = testbed.history.now() + seconds
    await testbed.until(lambda: asyncio.sleep(0, testbed.history.now() >= end), "time had gone by", deadline=60.0)


def same(answers: Sequence[Any], expected: dict[str, Any] | None, what: str) -> None:
    """All of them gave that product."""
    for answer in answers:
        assert answer == expected, f"{what}: `get` gave {answer!r}; promised was {expected!r}"


def loads(testbed: Testbed, load: Callback, promised: int, what: str) -> None:
    """The database was read so often in all.

    A correct cache loads once more when Redis seems to be gone, and so it seems where this machine lets processes wait
    for longer than Redis has. Then it is tried again, and the second time nothing is certain.
    """
    count = len(load.calls)
    if count == promised:
        return
    seen = f"{what}: `load` was called {count} times in all; promised were {promised}"
    if promised < count <= promised + 2 and testbed.lateness.worst_since(testbed.history.began) > LATE:
        if testbed.patience > 1:
            return
        raise BudgetMissed(seen, promise=f"loads: {what}", took=testbed.history.now())
    raise Broken(seen, [call.operation for call in load.calls[-4:]])


# -- the contract ------------------------------------------------------------------------------------------------


async def test_remembers_for_a_while(testbed: Testbed) -> None:
    """What was loaded is given again without a load, in every process, until it expires, is deleted or forgotten.

    The clocks of the two processes are four minutes apart.

    Look: the docstrings of `ProductCache`, and "The keys" in the starter.
    """
    redis = await testbed.redis()
    shelf = Shelf(HAT, SHOE)
    load = testbed.callback(shelf.load, name="load")
    here, there = [await testbed.process(f"page-{at + 1}", clock_offset=at * 240.0) for at in range(2)]
    mine, yours = await cache(testbed, here, redis, load), await cache(testbed, there, redis, load)

    same([await mine.get("hat") for _ in range(2)] + [await yours.get("hat")], HAT, "a product, asked for three times")
    loads(testbed, load, 1, "a product was asked for three times")
    assert (load.calls[0].args, load.calls[0].kwargs) == (("hat",), {}), f"`load` was called as {load.calls[0].args}"
    same([await mine.get("hat-2"), await yours.get("hat-2")], SHOE, "another product")
    loads(testbed, load, 2, "another product was asked for")
    await lives(redis, "product:hat", 48.0, 60.0)

    shelf.products["hat"] = NEW
    kept = await redis.truth.exists("product:hat-2")
    assert await yours.forget("hat") is None, "`forget` gives nothing"
    assert await redis.truth.exists("product:hat-2") == kept, "the hat was forgotten, and product:hat-2 is gone, too"
    same([await mine.get("hat"), await yours.get("hat")], NEW, "a product that was forgotten after it had changed")
    loads(testbed, load, 3, "one of two products was forgotten")
    assert await redis.truth.delete("product:hat") == 1, "nothing is remembered at product:hat"
    same([await mine.get("hat")], NEW, "a product whose entry was deleted by hand")
    loads(testbed, load, 4, "an entry was deleted by hand, and its product asked for again")

    usual = await here.new("ProductCache", redis.at(), load)
    await usual.forget("hat")
    await usual.get("hat")
    await lives(redis, "product:hat", 240.0, 300.0)
    await here.new("ProductCache", redis.at(), load, 1.0)
    with testbed.raises("ValueError"):
        await here.new("ProductCache", redis.at(), load, 0.9)


async def lives(redis: RedisServer, key: str, least: float, most: float) -> None:
    """The entry has so long to live, but for the time since it was made."""
    left = await redis.truth.pttl(key) / 1000
    assert left != -0.002, f"nothing is remembered at {key}"
    assert left != -0.001, f"{key} never expires"
    assert least - 2.0 <= left <= most, f"{key} has {left:.1f} s to live; promised are {least:g} to {most:g} s"
    await own_keys(redis)


async def own_keys(redis: RedisServer) -> None:
    """All that is in Redis is the cache's by its name, and expires."""
    for other in await redis.truth.keys():
        name = str(other, errors="replace") if isinstance(other, bytes) else other
        assert name.startswith("product:"), f"there is a key {name!r}; every key starts with 'product:ID'"
        assert await redis.truth.pttl(other) != -1, f"the key {name!r} never expires"


async def test_a_hit_costs_one_round_trip(testbed: Testbed) -> None:
    """What is remembered costs one round trip to Redis, also that a product is unknown, and lives no longer for it.

    Look: what `get` asks Redis before it knows whether there is anything to load.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT, SHOE).load, name="load")
    way = await testbed.proxy(redis)
    page = await cache(testbed, await testbed.process("page-1"), way, load)
    for product_id in ("hat-2", "hat-2", "hat", "ghost"):
        await page.get(product_id)

    for what, product_id in (("a product", "hat"), ("an unknown product", "ghost")):
        for _ in range(3):  # on a slow machine Redis may have been too late to remember it
            if await redis.truth.pexpire(f"product:{product_id}", 5_000):
                break
            await page.get(product_id)
        before = way.proxy.counts
        await page.get(product_id)
        trips = (way.proxy.counts - before).round_trips
        if not trips:
            raise Broken(f"{what} that is remembered was given without asking Redis; nothing is kept in the process")
        assert trips == 1, f"{what} that is remembered cost {trips} round trips; promised is 1"
        left = await redis.truth.pttl(f"product:{product_id}") / 1000
        assert left <= 5, f"{what} had 5 s to live, was asked for, and has {left:.1f} s"
    loads(testbed, load, 3, "three products were asked for, one after the other")


async def test_unknown_products_are_remembered(testbed: Testbed) -> None:
    """That there is no such product is remembered, too, for a shorter time, and one load serves all who ask.

    Look: what tells "nothing is remembered" from "it is remembered that there is nothing".
    """
    redis = await testbed.redis()
    shelf = Shelf()
    load = testbed.callback(shelf.load, name="load")
    here, there = [await cache(testbed, page, redis, load, 100.0) for page in await testbed.processes(2, "page")]

    load.hold()
    asked = callers(here, 5) + callers(there, 5)
    await loading(load, asked)
    await all_wait(testbed, redis, load, here, there)
    load.release()
    same(await asyncio.gather(*asked), None, "a product that does not exist")
    same([await here.get("hat"), await there.get("hat")], None, "a product that does not exist, again")
    loads(testbed, load, 1, "a product that does not exist was asked for 12 times")
    left = await redis.truth.pttl("product:hat") / 1000
    assert 0 < left <= 20, (
        f"that a product is unknown is remembered for {left:.1f} s, at a ttl of 100 s; promised are 2 to 20 s"
    )

    brief = await new(here.process, redis, load, 1.0)
    same([await brief.get("hut")], None, "another product that does not exist")
    left = await redis.truth.pttl("product:hut") / 1000
    assert left <= 0.2, f"that a product is unknown is remembered for {left:g} s, at a ttl of 1 s; promised are 0.2 s"

    shelf.products["hat"] = HAT
    await redis.truth.delete("product:hat")
    same([await here.get("hat")], HAT, "a product that was unknown, until that expired")
    await lives(redis, "product:hat", 80.0, 100.0)


async def test_spoilt_entries_are_misses(testbed: Testbed) -> None:
    """Whatever else is found at a product's key is a miss, and is replaced by the load that follows.

    Look: what your code takes for granted about the bytes that it reads.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT).load, name="load")
    page = await cache(testbed, await testbed.process("page-1"), redis, load)
    await page.get("hat")
    entry = await remembered(redis, "hat")

    old = {"id": "hat", "name": "Hüt"}
    spoilt = {
        "half of your entry": entry[: len(entry) // 2],
        "bytes that are no text": b"\x80\x05\xff\xfe\x00",
        "JSON of last year, without a price": json.dumps(old).encode(),
        "your entry, with the price under its old name": entry.replace(b"price", b"cents"),
        "JSON of something else": b'{"items": [1, 2]}',
        "your entry of another product": entry.replace(b"hat", b"hut"),
        "your entry, with true for a price": entry.replace(b"1999", b"true"),
        "lists in lists, 100,000 deep": b"[" * 100_000,
        "a number": b"17",
        "a word": b'"hat"',
        "a list": b"[1, 2]",
    }
    for number, (what, content) in enumerate(spoilt.items(), start=2):
        other = content if content != entry else b"17"  # a format without names
        await redis.truth.set("product:hat", other, keepttl=True)
        await replaced(testbed, page, load, what, number)
    await redis.truth.delete("product:hat")
    await redis.truth.rpush("product:hat", "hat", "hat-2")
    await replaced(testbed, page, load, "a Redis list", len(spoilt) + 2)
    await lives(redis, "product:hat", 48.0, 60.0)


async def remembered(redis: RedisServer, product_id: str) -> bytes:
    """The entry of a product."""
    entry = await redis.truth.get(f"product:{product_id}")
    assert isinstance(entry, bytes), f"nothing is remembered at product:{product_id}"
    return entry


async def replaced(testbed: Testbed, page: Remote, load: Callback, what: str, promised: int) -> None:
    """The product is loaded once, and then remembered."""
    try:
        same([await page.get("hat"), await page.get("hat")], HAT, f"product:hat was {what}")
    except Raised as error:
        raise Broken(f"product:hat was {what}, and `get` raised {error}") from error
    before = f"with {promised - 1} loads before, product:hat was {what}, and the product was asked for twice"
    loads(testbed, load, promised, before)


async def test_entries_do_not_expire_together(testbed: Testbed) -> None:
    """The lives of 300 products that were loaded together differ by at least a tenth of the ttl.

    Look: what happens to the database when all that was loaded at nine o'clock expires at five past nine.
    """
    ttl, count = 3000.0, 300
    redis = await testbed.redis()
    load = testbed.callback(Shelf(*(some(number) for number in range(count))).load, name="load")
    page = await cache(testbed, await testbed.process("page-1"), redis, load, ttl)

    for _ in range(3):  # on a slow machine Redis may have been too late for some of them
        lives = await lives_of(redis, count)
        missing = [number for number, life in enumerate(lives) if life == -2]
        for start in range(0, len(missing), 10):
            await asyncio.gather(*(page.get(f"sku-{number}") for number in missing[start : start + 10]))
    left = sorted(life / 1000 / ttl for life in await lives_of(redis, count))

    assert left[0] > 0, "some of 300 products that were just loaded are not remembered, or never expire"
    assert left[-1] <= 1.0, f"at a ttl of {ttl:g} s an entry has {left[-1] * ttl:.0f} s to live"
    assert left[0] >= 0.78, f"at a ttl of {ttl:g} s an entry has {left[0] * ttl:.0f} s to live"
    assert left[-1] - left[0] >= 0.09, (
        f"{count} entries were made together, at a ttl of {ttl:g} s; the first expires "
        f"{(left[-1] - left[0]) * ttl:.1f} s before the last; promised are {0.1 * ttl:g} s"
    )
    most = max(sum(start <= life < start + 0.02 for life in left) for start in left)
    assert most <= count / 2, f"of {count} entries {most} expire within a fiftieth of the ttl"


async def lives_of(redis: RedisServer, count: int) -> list[int]:
    """The milliseconds that each entry has to live; -1 for ever, -2 if there is none."""
    async with redis.truth.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.pttl(f"product:sku-{number}")
        return await pipe.execute()


# -- one load ----------------------------------------------------------------------------------------------------


async def test_one_load_for_all_who_miss(testbed: Testbed) -> None:
    """Of 4 processes with 50 callers each, that all miss the same product, one loads.

    The load is held until all 200 have begun and each process has asked Redis.

    Look: who knows that somebody is loading already, in this process and in another one.
    """
    redis = await testbed.redis()
    load, other = [testbed.callback(Shelf(HAT, SHOE).load, name="load") for _ in range(2)]
    pages = await testbed.processes(4, "page")
    ways = [await testbed.proxy(redis) for _ in pages]
    caches = list[Remote]()
    for page, way in zip(pages, ways, strict=True):
        warm = await cache(testbed, page, way, other)
        same(await asyncio.gather(*callers(warm, CALLERS, "hat-2")), SHOE, "another product")  # opens connections
        caches.append(await new(page, way, load))
    before = [way.requests for way in ways]

    load.hold()
    asked = [task for each in caches for task in callers(each, CALLERS)]
    await loading(load, asked)
    await all_asked(testbed, ways, before)
    await all_wait(testbed, redis, load, *caches)
    load.release()

    same(await asyncio.gather(*asked), HAT, "one of 200 who asked at the same time")
    loads(testbed, load, 1, "200 callers in 4 processes missed the same product at the same time")


async def all_asked(testbed: Testbed, ways: Sequence[ProxiedRedis], before: Sequence[int]) -> None:
    """Return when each process has asked Redis."""

    async def asked() -> bool:
        return all(way.requests > count for way, count in zip(ways, before, strict=True))

    try:
        await testbed.until(asked, "all processes had asked Redis")
    except TestbedError as error:
        seen = "a process was asked for a product that it cannot know, and has not asked Redis within 5 s"
        raise BudgetMissed(seen, promise="all processes had asked Redis", took=5.0) from error


async def test_what_came_meanwhile_is_seen(testbed: Testbed) -> None:
    """Who has missed, and finds the product remembered before it loads, does not load.

    Between each two requests of a miss in turn, another process's entry appears.

    Look: the time between reading nothing and having the right to load.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(*(some(number) for number in range(40))).load, name="load")
    here, there = await testbed.processes(2, "page")
    way = await testbed.proxy(redis)
    mine, other = await cache(testbed, here, way, load), await cache(testbed, there, redis, load)
    await mine.get("sku-0")

    position, number = 1, 0
    while number < 30:
        number += 1
        seen = await overtaken(testbed, redis, way, mine, other, load, f"sku-{number}", position)
        if seen == "loads":
            break
        position += seen == "seen"
    if position == 1:
        raise TestbedError("this machine is too slow to be quicker than a miss; close what you can and check again")


async def overtaken(
    testbed: Testbed,
    redis: RedisServer,
    way: ProxiedRedis,
    mine: Remote,
    other: Remote,
    load: Callback,
    product_id: str,
    position: int,
) -> str:
    """Another process's entry appears before that request of a miss: `seen`, or it `loads` already, or `late`."""
    await other.get(product_id)
    entry = await remembered(redis, product_id)
    await redis.truth.delete(*await redis.truth.keys(f"product:{product_id}*"))
    before = len(load.calls)
    held = way.proxy.hold(lambda _: True, skip=position - 1)
    asked = asyncio.create_task(outcome(mine.get(product_id)))
    await testbed.until(
        lambda: asyncio.sleep(0, held.arrived or len(load.calls) > before or asked.done()), "the miss went on"
    )
    since = testbed.history.now()
    if len(load.calls) > before or asked.done() or await redis.truth.exists(f"product:{product_id}"):
        held.release()
        await asked
        return "loads"
    await redis.truth.set(f"product:{product_id}", entry, px=60_000)
    testbed.history.note("network", f"before request {position} of the miss, another process's entry is there")
    held.release()
    late = testbed.history.now() - since > 0.04
    answer = await asked
    assert answer["id"] == product_id, f"`get` gave {answer}"
    if late:
        return "late"
    await redis.truth.delete(f"product:{product_id}")
    again = callers(other, 1, product_id)
    promise = f"{product_id}, which was seen before request {position} of a miss, was deleted, and was there again"
    await given(testbed, again, 0.5, promise)
    before += 1
    loads(
        testbed,
        load,
        before,
        f"{product_id} was remembered before request {position} of a miss, which had not loaded yet",
    )
    return "seen"


async def test_a_slow_load_is_waited_for(testbed: Testbed) -> None:
    """A load of 2.2 seconds is not repeated, who waits for it does not spin, and has the product when it is there.

    Look: how long your lease is, who renews it, and what a waiter does between two looks.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT).load, name="load")
    pages, ways = await testbed.processes(2, "page"), [await testbed.proxy(redis) for _ in range(2)]
    here, there = [await cache(testbed, page, way, load) for page, way in zip(pages, ways, strict=True)]

    load.hold()
    asked = callers(here, 1)
    await loading(load, asked)
    waiting = callers(there, 20)
    await all_wait(testbed, redis, load, here, there)
    before, began = [way.requests for way in ways], testbed.history.now()
    await pass_time(testbed, 2.2)
    waited = testbed.history.now() - began
    for way, already, what in zip(ways, before, ("by the process that loads", "for 20 who wait"), strict=True):
        sent = way.requests - already
        seen = f"{sent} commands in {waited:.2f} s, {what}; promised were at most 50 a second"
        assert sent <= 50 * waited + 5, seen
    only = "a load of 2.2 s was the only one"
    if len(load.calls) > 1:  # a lease may also have run out because the machine let nobody renew it: once more then
        when = load.calls[1].operation.start - load.calls[0].operation.start
        late = testbed.lateness.worst_since(testbed.history.began) > LATE
        if not (late and testbed.patience > 1):
            seen = f"`load` was still running, and {when:.2f} s after its beginning it was called again"
            raise BudgetMissed(seen, promise=only, took=when)
        testbed.late[only] = when  # at the same time twice it was no chance
    load.release()
    answers = await given(testbed, [*asked, *waiting], 0.25, "all had the product, after the load had ended")
    same(answers, HAT, "who waited for a slow load")
    loads(testbed, load, 1, "a load took 2.2 s, and 20 waited for it")


async def test_one_product_delays_no_other(testbed: Testbed) -> None:
    """While one product is being loaded, another one is loaded and given, in the same process and elsewhere.

    Look: what your lease is the lease of.
    """
    redis = await testbed.redis()
    shelf = Shelf(HAT, SHOE, some(1))
    shelf.waits = 1
    load = testbed.callback(shelf.load, name="load")
    here, there = [await cache(testbed, page, redis, load) for page in await testbed.processes(2, "page")]

    asked = callers(here, 1)
    await loading(load, asked)
    for where, product in ((there, SHOE), (here, some(1))):
        others = callers(where, 1, product["id"])
        answers = await given(testbed, others, 0.25, "a product was there, while another one was being loaded")
        await own_keys(redis)
        same(answers, product, "while another product was being loaded")
    shelf.let_go(1)
    same(await asyncio.gather(*asked), HAT, "the product that took so long")
    loads(testbed, load, 3, "three products were asked for")


async def test_a_cancelled_caller_takes_nobody_along(testbed: Testbed) -> None:
    """When the caller who came first is cancelled, the load goes on for the others; those of other processes, too.

    Once others of his process wait, and once only those of another one: they may load anew.

    Look: in whose task the load runs, and what becomes of the lease when that is cancelled.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT, SHOE).load, name="load")
    here, there = [await cache(testbed, page, redis, load) for page in await testbed.processes(2, "page")]

    load.hold()
    impatient = here.process.call(here, "get", "hat")
    await load.called()
    asked = callers(here, 5) + callers(there, 5)
    await all_wait(testbed, redis, load, here, there)
    assert await impatient.cancel(), "a cancelled `get` gave an answer"
    await pass_time(testbed, 0.2)
    load.release()

    same(await asyncio.gather(*asked), HAT, "the first of six callers was cancelled")
    loads(testbed, load, 1, "the first of six callers was cancelled, and five went on waiting")

    load.hold()
    impatient = here.process.call(here, "get", "hat-2")
    await load.called(2)
    asked = callers(there, 5, "hat-2")
    await all_wait(testbed, redis, load, there)
    assert await impatient.cancel(), "a cancelled `get` gave an answer"
    load.release()
    promise = "who waited elsewhere had the product, after the only caller of the process that loads was cancelled"
    same(await given(testbed, asked, 2.0, promise), SHOE, "who waited elsewhere for a load that was cancelled")


async def test_what_load_raises_reaches_all_and_is_not_kept(testbed: Testbed) -> None:
    """What `load` raises reaches all who wait for it, whatever it is, and the next call loads again.

    The database raises a `LookupError`, then a `TimeoutError` of its own.

    Look: what is between `try` and `except`, and who gives the lease back.
    """
    redis = await testbed.redis()
    trouble: list[Exception] = [LookupError("no such table")]

    async def read(product_id: str) -> dict[str, Any]:
        if trouble:
            raise trouble[0]
        return HAT | {"id": product_id}

    load = testbed.callback(read, name="load")
    here, there = [await cache(testbed, page, redis, load) for page in await testbed.processes(2, "page")]
    for error in (LookupError("no such table"), TimeoutError("the database is busy")):
        trouble[:] = [error]
        before, product_id = len(load.calls), type(error).__name__
        load.hold()
        asked = callers(here, 5, product_id)
        await loading(load, asked, before + 1)
        asked += callers(there, 5, product_id)
        await all_wait(testbed, redis, load, here, there)
        load.release()
        for answer in await given(testbed, asked, 0.5, "all knew that the load had failed"):
            told = isinstance(answer, Raised) and product_id in answer.bases and str(error) in str(answer)
            assert told, f"`load` raised {error!r}, and one of those who waited got {answer!r}"
        made = len(load.calls) - before
        assert made <= 2, f"`load` raised, with 5 callers in each of 2 processes, and was called {made} times"
        trouble.clear()
        again = await given(
            testbed, callers(here, 1, product_id), 0.25, "a product was there, after a load that failed"
        )
        same(again, HAT | {"id": product_id}, "after a load that failed")
        loads(testbed, load, before + made + 1, "a load had failed, and the product was asked for again")


# -- death -------------------------------------------------------------------------------------------------------


async def test_a_dead_loader_delays_nobody_for_long(testbed: Testbed) -> None:
    """The loader is killed with -9 while 30 others wait: one of them loads, and all have it within 2 seconds.

    Look: who takes back the right to load from somebody who cannot give it back.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT).load, name="load")
    doomed, *others = [await cache(testbed, page, redis, load) for page in await testbed.processes(4, "page")]

    load.hold()
    victim = callers(doomed, 10)
    await loading(load, victim)
    waiting = [task for each in others for task in callers(each, 10)]
    await all_wait(testbed, redis, load, *others)
    loads(testbed, load, 1, "a product is being loaded, and 30 wait for it")
    await doomed.process.kill()
    load.release()
    answers = await given(testbed, waiting, 2.0, "all others had the product, after the loader was killed")

    same(answers, HAT, "the loader was killed")
    loads(testbed, load, 2, "the loader was killed, and 30 waited in 3 processes")
    await asyncio.gather(*victim)


async def test_a_late_loader_replaces_nothing(testbed: Testbed) -> None:
    """A loader that stood still until another one had loaded does not replace the newer product by its older one.

    Look: what a load must know before it writes, and in which step.
    """
    redis = await testbed.redis()
    shelf = Shelf(HAT)
    shelf.waits = 1
    load = testbed.callback(shelf.load, name="load")
    late, quick, third = [await cache(testbed, page, redis, load) for page in await testbed.processes(3, "page")]

    old = callers(late, 1)
    await loading(load, old)
    shelf.products["hat"] = NEW
    async with testbed.paused(late.process):
        answers = await given(testbed, callers(quick, 1), 2.0, "another one had loaded for a loader that stands still")
        same(answers, NEW, "the first loader stands still")
        shelf.let_go(1)
    same([answer for answer in await asyncio.gather(*old) if answer != NEW], HAT, "the loader that had stood still")

    same([await third.get("hat"), await late.get("hat")], NEW, "an older load has ended after a newer one")
    loads(testbed, load, 2, "a product was loaded by a loader that stood still and by another one")


# -- forgetting --------------------------------------------------------------------------------------------------


async def test_a_running_load_does_not_undo_forget(testbed: Testbed) -> None:
    """What a load brings that had begun before `forget` is not remembered, whether or not somebody loads anew.

    Look: what `forget` has to tell a load that is under way in another process.
    """
    redis = await testbed.redis()
    shelf = Shelf(HAT)
    load = testbed.callback(shelf.load, name="load")
    slow, quick, third = [await cache(testbed, page, redis, load) for page in await testbed.processes(3, "page")]

    shelf.waits = 3
    old = callers(slow, 1)
    await loading(load, old)
    shelf.products["hat"] = NEW
    await quick.forget("hat")
    await pass_time(testbed, 0.9)  # time for the old load to renew what it has lost
    shelf.let_go(1)
    await answered(testbed, redis, old, "nobody has loaded since")

    shelf.products["hat"] = HAT
    await quick.forget("hat")
    old = callers(slow, 1)
    await loading(load, old, 2)
    shelf.products["hat"] = NEW
    await quick.forget("hat")
    new = callers(quick, 1)
    await loading(load, new, 3, within=2.0)
    shelf.let_go(2)
    await answered(testbed, redis, old, "another process is just loading anew")
    new += callers(third, 1)
    await all_wait(testbed, redis, load, third)
    shelf.let_go(3)
    same(await asyncio.gather(*new), NEW, "an older load has ended while a newer one was under way")
    same([await slow.get("hat"), await third.get("hat")], NEW, "a forgotten product")
    loads(testbed, load, 3, "a product was loaded three times, and twice forgotten meanwhile")


async def answered(testbed: Testbed, redis: RedisServer, old: Sequence[asyncio.Task[Any]], when: str) -> None:
    """Those who asked before `forget` have their answer, and nothing is remembered."""
    for answer in await asyncio.gather(*old):
        assert answer in (HAT, NEW), f"who had asked before `forget` got {answer!r}"
    await pass_time(testbed, 0.02)
    entry = await redis.truth.get("product:hat")
    assert entry is None, f"a load that had begun before `forget` is remembered ({when}): product:hat is {entry!r}"


async def test_a_load_writes_in_one_step(testbed: Testbed) -> None:
    """A product that is forgotten while a load writes it down is not remembered.

    Each request that is sent after the load in turn is held back until the product is forgotten.

    Look: the time between asking whether the load is still the one and writing.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(*(some(number) for number in range(10))).load, name="load")
    here, there = await testbed.processes(2, "page")
    way = await testbed.proxy(redis)
    mine, other = await cache(testbed, here, way, load), await cache(testbed, there, redis, load)
    for warm in (mine, other):
        await warm.get("sku-0")
        await warm.forget("sku-9")

    for position in range(1, 7):
        load.hold()
        asked = callers(mine, 1, f"sku-{position}")
        await loading(load, asked, position + 1)
        held = way.proxy.hold(lambda _: True, skip=position - 1)
        load.release()
        await testbed.until(
            lambda held=held, asked=asked: asyncio.sleep(0, held.arrived or asked[0].done()), "the load was over"
        )
        if not held.arrived:
            await pass_time(testbed, 0.05)  # it may be written down after the caller has it
        if not held.arrived:
            held.release()
            break
        testbed.history.note("network", f"request {position} after the load is held back")
        await other.forget(f"sku-{position}")
        held.release()
        testbed.history.note("network", "and goes on")
        same(await asyncio.gather(*asked), some(position), "a product that was forgotten just then")
        await pass_time(testbed, 0.02)
        entry = await redis.truth.get(f"product:sku-{position}")
        assert entry is None, f"what a load brought is remembered (between two requests of the writing): {entry!r}"
    else:
        raise Broken("a load was over, and six requests were not enough to write it down")
    if position == 1:
        raise Vacuous("a load was over, and nothing was sent to Redis: nothing could be held back")


async def test_after_forget_no_older_load_is_joined(testbed: Testbed) -> None:
    """Who asks after `forget`, of the same object, does not get what an older load brings, though it still runs.

    Look: what a `get` finds in the process while a load is under way.
    """
    redis = await testbed.redis()
    shelf = Shelf(HAT)
    shelf.waits = 1
    load = testbed.callback(shelf.load, name="load")
    page = await cache(testbed, await testbed.process("page-1"), redis, load)

    old = callers(page, 1)
    await loading(load, old)
    shelf.products["hat"] = NEW
    await page.forget("hat")
    fresh = callers(page, 2)
    answers = await given(
        testbed, fresh, 0.5, "who asked after `forget` had the product, though an older load still ran"
    )
    same(answers, NEW, "after `forget`")
    shelf.let_go(1)
    await asyncio.gather(*old)
    same([await page.get("hat")], NEW, "after the older load had ended, too")
    loads(testbed, load, 2, "a product was loaded, forgotten, and asked for three times")


async def test_forget_says_when_it_could_not(testbed: Testbed) -> None:
    """With a dead or silent Redis `forget` raises `NotForgotten` within 0.25 seconds.

    Look: what the caller has to know who has just changed a price.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT).load, name="load")
    page = await cache(testbed, await testbed.process("page-1"), redis, load)
    await page.get("hat")
    await page.forget("hat")
    await page.get("hat")

    async def refused(how: str) -> None:
        with testbed.within(0.25, f"`forget` had ended, with a Redis that is {how}"):
            try:
                with testbed.raises("NotForgotten"):
                    await page.forget("hat")
            except Broken as error:
                raise Broken(f"Redis is {how}, and `forget`: {error}") from error

    async with testbed.paused(redis):
        await refused("silent")
    await redis.kill()
    await refused("dead")


# -- without Redis -----------------------------------------------------------------------------------------------


async def test_answers_without_redis(testbed: Testbed) -> None:
    """With a silent, slow, full or dead Redis the product is there within 0.25 seconds, by one load for 20 callers.

    Look: what bounds each wait for Redis, and which exceptions mean that it is not there.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT, *(some(number) for number in range(60))).load, name="load")
    process = await testbed.process("page-1")
    way = await testbed.proxy(redis)
    near, far = await cache(testbed, process, redis, load), await cache(testbed, process, way, load)
    for each, product_id in ((near, "sku-0"), (far, "sku-1")):
        same([await each.get(product_id)], some(int(product_id[4:])), "with a Redis that is well")

    async def still(where: Remote, how: str, product_id: str) -> None:
        before = len(load.calls)
        load.hold()  # or it could be over before the last of them has asked
        asked = callers(where, 20, product_id)
        releasing = asyncio.create_task(release_for_all(asked, before + 1))
        try:
            answers = await given(testbed, asked, 0.25, f"the product was there, with a Redis that is {how}")
            same(answers, some(int(product_id[4:])), f"Redis is {how}")
            loads(testbed, load, before + 1, f"Redis is {how}, and 20 asked for a product; with {before} loads before")
            await releasing  # what it has seen comes last: what the callers were given says more
        finally:
            load.release()
            releasing.cancel()

    async def release_for_all(asked: Sequence[asyncio.Task[Any]], count: int) -> None:
        try:
            await loading(load, asked, count)
            await new(process, redis, load)  # it takes its messages in their order: all have asked
        finally:
            load.release()

    async with testbed.paused(redis):
        await still(near, "silent", "sku-2")
        await still(near, "still silent", "sku-3")
    await remembered_again(testbed, near, load, "went on", 10)
    testbed.inject(way, Latency(2.0))
    await still(far, "2 s slow", "sku-4")
    await redis.truth.config_set("maxmemory", "1")
    await still(near, "full", "sku-5")
    await redis.truth.config_set("maxmemory", "0")
    await redis.kill()
    await still(near, "dead", "sku-6")
    await redis.restart()
    await remembered_again(testbed, near, load, "was started again", 30)


async def remembered_again(testbed: Testbed, where: Remote, load: Callback, how: str, number: int) -> None:
    """Within a second a product is given without a load."""
    began = testbed.history.now()
    while True:
        product = some(number)
        same([await where.get(product["id"])], product, f"Redis {how}")
        before = len(load.calls)
        same([await where.get(product["id"])], product, f"Redis {how}")
        if len(load.calls) == before:
            return
        took = testbed.history.now() - began
        if took > testbed.patience:
            seen = f"Redis {how}, and {took:.1f} s later a product that was just loaded is loaded again"
            raise BudgetMissed(seen, promise=f"products were remembered again, after Redis {how}", took=took)
        await pass_time(testbed, 0.05)


async def test_redis_may_go_while_a_load_runs(testbed: Testbed) -> None:
    """Redis falls silent while one process loads and another waits: both answer, and the second one loads, too.

    Look: how a waiter notices, and what bounds the writing at the end of a load.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(HAT).load, name="load")
    here, there = [await cache(testbed, page, redis, load) for page in await testbed.processes(2, "page")]

    load.hold()
    asked = callers(here, 5)
    await loading(load, asked)
    waiting = callers(there, 5)
    await all_wait(testbed, redis, load, here, there)
    loads(testbed, load, 1, "a product is being loaded")
    async with testbed.paused(redis):
        with testbed.within(0.5, "who waited for another process had noticed that Redis is silent"):
            await loading(load, [*asked, *waiting], 2, within=2.0)
        load.release()
        answers = await given(testbed, [*asked, *waiting], 0.25, "all had the product, after both loads had ended")
        same(answers, HAT, "Redis fell silent while the load ran")
    loads(testbed, load, 2, "Redis fell silent while one process loaded and another waited")


async def test_a_slow_redis_is_used(testbed: Testbed) -> None:
    """With a Redis that takes 0.03 seconds for an answer, products are remembered.

    Look: whose time limit bounds each wait for Redis.
    """
    redis = await testbed.redis()
    load = testbed.callback(Shelf(*(some(number) for number in range(20))).load, name="load")
    way = await testbed.proxy(redis)
    page = await cache(testbed, await testbed.process("page-1"), way, load)
    testbed.inject(way, Latency(0.03))

    for number in range(12):  # on a machine that is slow itself, one of them will be quick enough
        same([await page.get(f"sku-{number}")], some(number), "with a Redis that takes 0.03 s")
        before = len(load.calls)
        same([await page.get(f"sku-{number}")], some(number), "with a Redis that takes 0.03 s")
        if len(load.calls) == before:
            return
    raise Broken("with a Redis that takes 0.03 s for an answer, 12 products were loaded again as soon as asked for")
