"""What our cache promises beyond the checks of redis/02: options, what it leaves behind, who is woken, its cost."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from faultline.components.faults import BlackHole
from faultline.components.proxy import named
from faultline.patterns import CacheAside, NotForgotten, PatternError
from faultline.patterns.cache_entry import packed
from faultline.patterns.cache_scripts import TAKE, Keys
from faultline.testbed.speed import measured_lateness

if TYPE_CHECKING:
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance
    from faultline.components.proxy import FaultProxy

HAT = {"id": "hat", "price": 1999}
KEY = "cache:hat"


class Database:
    """Answers when it may."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers) or [HAT]
        self.open = asyncio.Event()
        self.open.set()
        self.loads = 0

    async def load(self, key: str) -> Any:
        self.loads += 1
        answer = self.answers[min(self.loads, len(self.answers)) - 1]
        await self.open.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


def patient(redis: Redis, load: Any, ttl: float = 300.0, **options: Any) -> CacheAside[Any]:
    """For where it is not the subject how long Redis may take on a busy machine."""
    settings: dict[str, Any] = {"patience": 5.0} | options
    return CacheAside(redis, load, ttl, **settings)


def blocked(redis: Redis) -> Any:
    async def blocked() -> int:
        return int((await redis.info("clients"))["blocked_clients"])

    return blocked


async def raw(redis: Redis) -> bytes:
    entry = await redis.get(KEY)
    assert isinstance(entry, bytes)
    return entry


@pytest.mark.parametrize(
    "wrong",
    [{"ttl": ttl} for ttl in (0.0, 0.99, -1.0, math.inf, math.nan)]
    + [{"jitter": jitter} for jitter in (-0.1, 1.0)]
    + [{"lease": 0.0}, {"lease": math.nan}, {"patience": 0.0}],
)
def test_what_cannot_be_promised_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"ttl|jitter|lease"):
        CacheAside(Redis(), Database.load, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("answer", "least", "most"), [(HAT, 80.0, 100.0), (None, 4.0, 5.0)])
async def test_options_say_how_long_and_where(redis: Redis, answer: Any, least: float, most: float) -> None:
    cache = patient(redis, Database(answer).load, 100.0, prefix="shop/", unknown=5.0, jitter=0.2)

    assert await cache.get("hat") == answer

    assert await redis.keys("*lease*") == []
    assert least - 1 < await redis.pttl("shop/hat") / 1000 <= most
    assert 0 < await redis.pttl("shop/hat:done") <= 1000


async def test_without_jitter_all_live_equally_long(redis: Redis) -> None:
    cache = patient(redis, Database().load, 100.0, jitter=0.0)

    await asyncio.gather(*(cache.get(str(number)) for number in range(20)))

    assert min([await redis.pttl(f"cache:{number}") for number in range(20)]) > 98_000


async def test_values_are_as_the_caller_writes_them(redis: Redis) -> None:
    def decode(payload: bytes) -> int:
        if not payload.isdigit():
            raise RuntimeError("an older version")  # whatever it is
        return int(payload)

    database = Database(7)
    cache: CacheAside[int] = patient(redis, database.load, encode=lambda number: b"%d" % number, decode=decode)

    assert [await cache.get("hat"), await cache.get("hat")] == [7, 7]
    assert (await raw(redis)).endswith(b"7")
    await redis.set(KEY, packed(b"seven", 0.0))
    assert [await cache.get("hat"), await cache.get("hat")] == [7, 7]
    assert database.loads == 2


async def test_what_cannot_be_encoded_is_raised_and_keeps_no_lease(redis: Redis) -> None:
    cache = patient(redis, Database({1, 2}).load)

    with pytest.raises(TypeError):
        await cache.get("hat")

    assert await redis.keys("*lease*") == []


async def test_a_miss_costs_three_round_trips_and_a_hit_one(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    cache = patient(servers.client(proxy), Database().load)
    await cache.get("shoe")
    before = proxy.counts.requests

    await cache.get("hat")
    missed = proxy.counts.requests
    await cache.get("hat")

    assert (missed - before, proxy.counts.requests - missed) == (3, 1)


async def test_waiters_of_another_process_are_woken(
    servers: Servers, server: Instance, redis: Redis, until: Until
) -> None:
    """They block on the server: the end of the load is what they wait for."""
    database = Database()
    database.open.clear()
    proxy = await servers.proxy(server)
    here, there = patient(redis, database.load), patient(servers.client(proxy), database.load)
    async with asyncio.TaskGroup() as group:
        loading = group.create_task(here.get("hat"))
        await until(lambda: asyncio.sleep(0, database.loads))
        waiting = [group.create_task(there.get("hat")) for _ in range(30)]
        await until(blocked(redis))
        # Who is woken asks again; who polls would have to send something else first.
        hold = proxy.hold(named("EVALSHA"))
        database.open.set()
        await loading
        await hold.reached(2)
        assert proxy.commands[-2].args[0] == b"XREAD"
        hold.release()

    assert [task.result() for task in waiting] == [HAT] * 30
    assert database.loads == 1


async def test_more_keys_than_listeners_are_waited_for(
    servers: Servers, redis: Redis, server: Instance, until: Until
) -> None:
    database = Database()
    database.open.clear()
    here, there = patient(redis, database.load), patient(servers.client(server), database.load)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(here.get(str(number))) for number in range(20)]
        await until(lambda: asyncio.sleep(0, database.loads == 20))
        tasks += [group.create_task(there.get(str(number))) for number in range(20)]

        seen: list[int] = []

        async def full() -> bool:
            seen.append(await blocked(redis)())
            return 8 in seen and len(seen) > 50

        await until(full)
        assert max(seen) == 8
        database.open.set()

    assert [task.result() for task in tasks] == [HAT] * 40
    assert database.loads == 20


async def test_the_lease_is_renewed_and_then_given_back(redis: Redis, until: Until) -> None:
    database = Database()
    database.open.clear()
    cache = patient(redis, database.load, lease=2.0)
    loading = asyncio.create_task(cache.get("hat"))
    await until(lambda: redis.get(f"{KEY}:lease"))
    owner = await redis.get(f"{KEY}:lease")
    left: list[int] = []  # milliseconds

    async def renewed_twice() -> bool:
        assert await redis.get(f"{KEY}:lease") == owner
        left.append(await redis.pttl(f"{KEY}:lease"))
        return sum(later > before for before, later in pairwise(left)) >= 2

    await until(renewed_twice)
    database.open.set()

    assert await loading == HAT
    assert await redis.exists(f"{KEY}:lease") == 0
    assert [task.get_name() for task in asyncio.all_tasks() if "renew" in task.get_name()] == []


async def test_a_lease_that_went_to_another_is_neither_renewed_nor_used(redis: Redis, until: Until) -> None:
    database = Database()
    database.open.clear()
    cache = patient(redis, database.load, lease=0.15)
    loading = asyncio.create_task(cache.get("hat"))
    await until(lambda: redis.get(f"{KEY}:lease"))
    await redis.set(f"{KEY}:lease", "somebody else", px=600)

    async def over() -> bool:
        return not await redis.exists(f"{KEY}:lease")

    await until(over)  # though the loader would have renewed it six times
    await redis.set(f"{KEY}:lease", "somebody else")
    database.open.set()

    assert await loading == HAT
    assert await redis.get(f"{KEY}:lease") == b"somebody else"
    assert await redis.exists(KEY) == 0


async def test_the_last_caller_who_is_cancelled_gives_the_lease_back(redis: Redis, until: Until) -> None:
    database = Database()
    database.open.clear()
    cache = patient(redis, database.load)
    callers = [asyncio.create_task(cache.get("hat")) for _ in range(3)]
    await until(lambda: redis.exists(f"{KEY}:lease"))

    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)

    assert await redis.exists(f"{KEY}:lease", KEY) == 0
    assert all(caller.cancelled() for caller in callers)


async def test_a_lease_whose_answer_got_lost_is_used_all_the_same(
    servers: Servers, server: Instance, redis: Redis
) -> None:
    """Otherwise it would keep others waiting until it expires."""
    proxy = await servers.proxy(server)
    database = Database()
    cache = CacheAside(servers.client(proxy, timeout=5.0), database.load, lease=30.0, patience=2.0)
    await cache.get("shoe")
    lost = proxy.hold_reply(lambda args: args[0] == b"EVALSHA")

    assert await cache.get("hat") == HAT

    assert lost.arrived == 1
    assert await redis.exists(f"{KEY}:lease") == 0
    assert await redis.exists(KEY) == 1
    lost.release()


async def test_who_finds_the_lease_taken_learns_where_the_messages_end(redis: Redis) -> None:
    keys = Keys.of(KEY)
    assert await TAKE.run(redis, keys.all, "first", 60_000, b"") == [1]

    async def waiting(seen: bytes = b"") -> list[Any]:
        *answer, left = await TAKE.run(redis, keys.all, "second", 60_000, seen)
        assert 50_000 < left <= 60_000
        return answer

    assert await waiting() == [0, b"0-0"]
    number = await redis.xadd(keys.done, {"": ""})
    assert await waiting() == [0, number]
    await redis.set(KEY, "spoilt")
    assert await waiting(b"spoilt") == [0, number]
    assert await TAKE.run(redis, keys.all, "second", 60_000, b"") == [2, b"spoilt"]


async def test_a_lease_that_ends_is_taken_at_once(redis: Redis, until: Until) -> None:
    """Its holder has died; what is left of it is known."""
    lost = asyncio.get_running_loop().time() + 0.4
    await redis.set(f"{KEY}:lease", "somebody who died", px=400)
    database = Database()

    async with measured_lateness() as lateness:
        assert await patient(redis, database.load).get("hat") == HAT
        taken = asyncio.get_running_loop().time()

    assert lost - 0.01 < taken < lost + 0.1 + 3 * lateness.worst_since(0.0)


async def test_forget_says_what_it_does_not_know(servers: Servers, server: Instance) -> None:
    proxy: FaultProxy = await servers.proxy(server)
    cache = CacheAside(servers.client(proxy, timeout=5.0), Database().load, patience=0.05)
    await cache.get("hat")
    proxy.add(BlackHole())

    with pytest.raises(NotForgotten, match=r"cache:hat.* up to 300 s") as caught:
        await cache.forget("hat")

    assert isinstance(caught.value, PatternError)
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_json_is_the_default(redis: Redis) -> None:
    cache = patient(redis, Database().load)
    await cache.get("hat")

    assert json.loads((await raw(redis))[11:]) == HAT


async def test_nothing_is_left_running(redis: Redis) -> None:
    before = asyncio.all_tasks()
    cache = patient(redis, Database(HAT, LookupError()).load)
    await cache.get("hat")
    with suppress(LookupError):
        await cache.get("shoe")

    assert asyncio.all_tasks() == before


async def test_after_forget_nobody_joins_what_had_begun_before(
    servers: Servers, server: Instance, until: Until
) -> None:
    """Neither a load that is under way nor a look whose answer is."""
    database = Database(HAT, {"id": "hat", "price": 999})
    database.open.clear()
    proxy = await servers.proxy(server)
    cache = patient(servers.client(proxy, timeout=5.0), database.load)
    loading = asyncio.create_task(cache.get("hat"))
    await until(lambda: asyncio.sleep(0, database.loads))
    await cache.forget("hat")
    fresh = asyncio.create_task(cache.get("hat"))
    await until(lambda: asyncio.sleep(0, database.loads == 2))
    database.open.set()
    assert [await loading, await fresh] == [HAT, database.answers[1]]

    late = proxy.hold_reply(named("GET"))
    looking = asyncio.create_task(cache.get("hat"))
    await late.reached(5)
    await cache.forget("hat")
    assert await cache.get("hat") == database.answers[1]
    assert database.loads == 3, "it has joined a look that was answered before"
    late.release()
    await looking


async def test_a_look_that_is_cancelled_is_done_again_by_those_who_share_it(
    servers: Servers, server: Instance, until: Until
) -> None:
    database = Database()
    proxy = await servers.proxy(server)
    cache = patient(servers.client(proxy, timeout=5.0), database.load)
    held = proxy.hold(named("GET"))
    first, *others = [asyncio.create_task(cache.get("hat")) for _ in range(4)]
    await held.reached(5)
    first.cancel()
    await asyncio.wait([first])
    held.release()

    assert await asyncio.gather(*others) == [HAT] * 3
    assert first.cancelled()
    assert database.loads == 1
    looks = [command for command in proxy.commands if command.args[0] == b"GET"]
    assert len(looks) == 2, "those who share a look send one, and one more after it was cancelled"
