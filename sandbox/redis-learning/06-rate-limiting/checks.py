"""The grader of redis/06: what a rate limit promises over every window, and when the server is gone."""

import asyncio
from collections.abc import Sequence

from faultline.testbed import (
    Broken,
    Direction,
    Latency,
    LearnerProcess,
    Operation,
    ProxiedRedis,
    RedisServer,
    Remote,
    Testbed,
    TestbedError,
    Vacuous,
    any_window_rate,
)

ANN = "ann"
SAFE = 10.0  # seconds that a hit may wait for the server where its silence is not the subject


async def limiter(
    process: LearnerProcess,
    server: RedisServer | ProxiedRedis,
    limit: int,
    per: float,
    *,
    on_failure: str = "closed",
    timeout: float = SAFE,
) -> Remote:
    """The learner's limiter in that process; one that has to guess refuses, so that guesses admit nothing."""
    return await process.new("RateLimiter", server.at(), limit, per, on_failure=on_failure, timeout=timeout)


def admitted(decisions: Sequence[Remote]) -> list[Operation]:
    """The calls that were admitted."""
    return [decision.operation for decision in decisions if decision.allowed]


def ended(decision: Remote) -> float:
    """When its answer had come."""
    return decision.operation.end or 0.0


# -- the contract ------------------------------------------------------------------------------------------------


async def test_counts_down_and_refuses(testbed: Testbed) -> None:
    """A fresh key admits the limit at once, tells how many are left, and then refuses until there is room.

    Look: the docstrings of `Decision` and `RateLimiter` in the starter.
    """
    redis = await testbed.redis()
    gate = await limiter(await testbed.process("gateway-1"), redis, 3, 60.0)

    for left in (2, 1, 0):
        decision = await gate.hit(ANN)
        assert decision.allowed is True, f"hit {3 - left} of 3 was refused"
        assert decision.remaining == left, f"after hit {3 - left} of 3, {decision.remaining} are said to remain"
        assert decision.retry_after == 0, f"an admitted hit is told to wait {decision.retry_after:g} s"
    decision = await gate.hit(ANN)
    assert decision.allowed is False, "hit 4 of 3 was admitted"
    assert decision.remaining == 0, f"at the limit, {decision.remaining} are said to remain"
    assert 50 < decision.retry_after <= 60, f"refused just after 3 hits, it is told to wait {decision.retry_after:g} s"
    assert (await gate.hit("bob")).allowed is True, "ann is at her limit, and bob is refused"
    assert (await gate.hit("ann:bob")).allowed is True, "ann is at her limit, and 'ann:bob' is refused"
    smallest = await limiter(gate.process, redis, 1, 0.01)
    assert (await smallest.hit("eve")).allowed is True, "the first hit of a limit of 1 in 0.01 s was refused"


async def test_refuses_nonsense(testbed: Testbed) -> None:
    """What cannot be counted is refused with `ValueError`, and counts nothing.

    Look: the last sentences of `RateLimiter.__init__` and `hit` in the starter.
    """
    redis = await testbed.redis()
    gateway = await testbed.process("gateway-1")
    gate = await limiter(gateway, redis, 3, 60.0)

    for what, call in {
        "hit('')": lambda: gate.hit(""),
        "a cost of 0": lambda: gate.hit(ANN, 0),
        "a cost of -1": lambda: gate.hit(ANN, -1),
        "a cost of 4 at a limit of 3": lambda: gate.hit(ANN, 4),
        "a limit of 0": lambda: limiter(gateway, redis, 0, 60.0),
        "a window of 0 s": lambda: limiter(gateway, redis, 3, 0.0),
        "failing 'ajar'": lambda: limiter(gateway, redis, 3, 60.0, on_failure="ajar"),
    }.items():
        try:
            with testbed.raises("ValueError"):
                await call()
        except Broken as error:
            raise Broken(f"{what}: {error}", error.witness) from error
    left = (await gate.hit(ANN)).remaining
    assert left == 2, f"after calls that were to be refused, and one hit of 3, {left} remain"


async def test_cost_counts_as_so_many(testbed: Testbed) -> None:
    """A hit of cost 4 counts as 4, all or nothing, and is told to wait until there is room for all of it.

    Look: what is kept of a hit that costs more than 1, and which of the old ones stand in its way.
    """
    redis = await testbed.redis()
    gate = await limiter(await testbed.process("gateway-1"), redis, 10, 60.0)

    first = await gate.hit(ANN, 4)
    assert (first.allowed, first.remaining) == (True, 6), f"4 of 10: allowed {first.allowed}, {first.remaining} remain"
    second = await gate.hit(ANN, 4)
    assert (second.allowed, second.remaining) == (True, 2), f"8 of 10: {second.allowed}, {second.remaining} remain"
    third = await gate.hit(ANN, 3)
    assert third.allowed is False, "8 of 10 were used, and a hit of cost 3 was admitted"
    assert third.remaining == 2, f"8 of 10 are used, a hit was refused, and {third.remaining} are said to remain"
    assert (await gate.hit(ANN, 2)).allowed is True, "8 of 10 were used, and a hit of cost 2 was refused"
    assert (await gate.hit(ANN, 1)).allowed is False, "10 of 10 were used, and a hit of cost 1 was admitted"
    assert (await gate.hit("bob", 10)).allowed is True, (
        "nothing was used, and a hit that costs the whole limit was refused"
    )


# -- every window ------------------------------------------------------------------------------------------------


async def test_of_many_at_once_the_limit(testbed: Testbed) -> None:
    """Of 200 hits at the same time, from 4 processes, exactly the limit of 30 is admitted.

    Look: the step between seeing that there is room and taking it.
    """
    redis = await testbed.redis()
    gates = [await limiter(gateway, redis, 30, 60.0) for gateway in await testbed.processes(4, "gateway")]

    decisions = await asyncio.gather(*(gate.hit(ANN) for gate in gates * 50))

    allowed = [decision for decision in decisions if decision.allowed]
    assert len(allowed) == 30, f"of 200 hits at once {len(allowed)} were admitted; promised are 30"
    left = sorted(decision.remaining for decision in allowed)
    assert left == list(range(30)), f"30 were admitted, one by one, and were told that so many remain: {left}"


async def test_no_window_holds_more(testbed: Testbed) -> None:
    """No window holds more than the limit, wherever it begins: not even one across the end of a clock's window.

    One hit, a pause, a burst; and when the first hit has left the window, another burst.

    Look: what your limiter knows, just after a window's end, of the hits just before it.
    """
    limit = 20
    redis = await testbed.redis()
    gateways = await testbed.processes(2, "gateway")
    for per in (0.8, 1.6, 3.2):  # longer ones for a machine that is too slow for short ones
        gates = [await limiter(gateway, redis, limit, per) for gateway in gateways]
        key = f"{ANN}-{per}"
        await testbed.until(lambda per=per: early_in(redis, per), "a clock's window was young", deadline=3 * per + 5)

        window, first = await window_of(redis, per), (await gates[0].hit(key)).operation
        await testbed.until(lambda end=first.end + 0.6 * per: now(testbed, end), "0.6 windows had gone by")
        before = await burst(gates, key, limit)
        young = await window_of(redis, per) == window
        await testbed.until(lambda end=first.end + 1.05 * per: now(testbed, end), "the first hit had left the window")
        after = await burst(gates, key, limit)

        any_window_rate([first, *admitted(before), *admitted(after)], limit=limit, per=per, at_least=0)
        together = max(ended(one) for one in after) - min(one.operation.start for one in before)
        if young and together < per:  # a border of the clock's windows lay between the bursts, and both in one window
            return
    raise TestbedError("this machine is too slow for two bursts within 3 s; close what you can and check again")


async def early_in(redis: RedisServer, per: float) -> bool:
    """Whether a window that is counted by the server's clock has just begun."""
    seconds, microseconds = await redis.truth.time()
    return 0.1 < (seconds + microseconds / 1e6) % per / per < 0.25


async def window_of(redis: RedisServer, per: float) -> int:
    """The number of the window by the server's clock."""
    seconds, microseconds = await redis.truth.time()
    return int((seconds + microseconds / 1e6) // per)


async def now(testbed: Testbed, instant: float) -> bool:
    """Whether it is so late."""
    return testbed.history.now() >= instant


async def burst(gates: Sequence[Remote], key: str, hits: int) -> list[Remote]:
    """So many hits at the same time, from all processes in turn."""
    return list(await asyncio.gather(*(gates[number % len(gates)].hit(key) for number in range(hits))))


async def test_has_room_when_there_is_room(testbed: Testbed) -> None:
    """Under more demand than the limit for several windows, no hit is refused while there is room for it.

    Look: what a refused hit leaves behind, and when an admitted one leaves the window.
    """
    limit, per = 25, 0.5
    redis = await testbed.redis()
    gates = [await limiter(gateway, redis, limit, per) for gateway in await testbed.processes(4, "gateway")]
    decisions = await demand(testbed, gates * 2, admissions=3 * limit, within=8 * per)

    any_window_rate(admitted(decisions), limit=limit, per=per, at_least=0)
    refused = [decision.operation for decision in decisions if not decision.allowed]
    passed = admitted(decisions)
    for one in refused:
        # Every hit that may still have been in the window when this one was refused.
        there = [other for other in passed if (other.end or 0.0) > one.start - per and other.start < (one.end or 0.0)]
        if len(there) < limit:
            seen = f"a hit was refused although at most {len(there)} were in its window; promised are {limit}"
            raise Broken(seen, (*there[-2:], one))
    if len(refused) < limit or len(passed) < 2 * limit:
        raise Vacuous(f"{len(passed)} hits were admitted and {len(refused)} refused: too few to show several windows")


async def test_room_comes_back_as_hits_leave(testbed: Testbed) -> None:
    """When hits leave the window there is room for as many, at once, and for no more than that.

    Of a limit of 4: one hit, two more, one more, each 0.3 windows later. They leave in the same order.

    Look: how many of the old hits your limiter lets go at once, and how it knows that they are old.
    """
    redis = await testbed.redis()
    gateway = await testbed.process("gateway-1")
    for number, per in enumerate((0.8, 1.6, 3.2)):  # longer ones for a machine that is too slow for short ones
        gate, key = await limiter(gateway, redis, 4, per), f"{ANN}-{number}"
        hits: list[Remote] = []
        for count in (1, 2, 1):
            if hits:
                then = ended(hits[-1]) + 0.3 * per
                await testbed.until(lambda then=then: now(testbed, then), "0.3 windows had gone by")
            hits += await burst([gate], key, count)
        for leaving, promised in ((hits[:1], (True, 0)), (hits[1:3], (True, 1))):
            gone = max(ended(one) for one in leaving) + per + 0.005
            await testbed.until(lambda end=gone: now(testbed, end), "hits had left the window")
            decision = await gate.hit(key)
            staying = hits[hits.index(leaving[-1]) + 1]
            if ended(decision) > staying.operation.start + per:
                break  # more had left than was meant to
            told = (decision.allowed, decision.remaining)
            assert told == promised, (
                f"{len(leaving)} of 4 hits had just left the window; the next is told allowed {told[0]}, {told[1]} "
                f"remain; promised are {promised[0]} and {promised[1]}"
            )
        else:
            return
    raise TestbedError("this machine is too slow for four hits within 3 s; close what you can and check again")


async def demand(testbed: Testbed, gates: Sequence[Remote], *, admissions: int, within: float) -> list[Remote]:
    """What became of hits, one after the other at each of the gates, until so many were admitted or time is up."""
    decisions: list[Remote] = []
    end = testbed.history.now() + within * testbed.patience

    async def ask(gate: Remote) -> None:
        while len(admitted(decisions)) < admissions and testbed.history.now() < end:
            decisions.append(await gate.hit(ANN))

    await asyncio.gather(*(ask(gate) for gate in gates))
    return decisions


async def test_clocks_do_not_matter(testbed: Testbed) -> None:
    """Processes whose clocks are four minutes apart count in the same windows.

    Look: whose clock says when a hit came, and when it leaves.
    """
    redis = await testbed.redis()
    behind = await limiter(await testbed.process("gateway-1", clock_offset=-120.0), redis, 10, 60.0)
    ahead = await limiter(await testbed.process("gateway-2", clock_offset=120.0), redis, 10, 60.0)

    for gate, hits, promised in ((behind, 6, 6), (ahead, 10, 4), (behind, 5, 0), (ahead, 5, 0)):
        allowed = [decision.allowed for decision in [await gate.hit(ANN) for _ in range(hits)]].count(True)
        assert allowed == promised, (
            f"of {hits} hits of {gate.process.name} {allowed} were admitted; promised are {promised}, for the limit is "
            "10 and the clocks of the two gateways are 240 s apart"
        )
    waits = [(await gate.hit(ANN)).retry_after for gate in (ahead, behind)]
    assert all(40 < wait <= 60 for wait in waits), f"refused by windows of 60 s, the two are told to wait {waits}"


async def test_retry_after_is_the_time_until_there_is_room(testbed: Testbed) -> None:
    """Who waits for `retry_after` is admitted; who is impatient is not; who costs more waits for more.

    Look: which of the hits in the window have to leave before this one fits.
    """
    redis = await testbed.redis()
    gateway = await testbed.process("gateway-1")
    gate = await limiter(gateway, redis, 10, 60.0)
    first = (await gate.hit(ANN, 4)).operation
    await testbed.until(lambda: now(testbed, first.end + 0.2), "0.2 s had gone by")
    second = (await gate.hit(ANN, 4)).operation
    for cost, leaves in ((3, first), (6, first), (7, second)):
        refused = await gate.hit(ANN, cost)
        assert refused.allowed is False, f"8 of 10 were used, and a hit of cost {cost} was admitted"
        least, most = (60 - (refused.operation.end - leaves.start), 60 - (refused.operation.start - leaves.end))
        assert least - 0.005 <= refused.retry_after <= most + 0.005, (
            f"4 and, 0.2 s later, 4 of 10 were used; a hit of cost {cost} is told to wait {refused.retry_after:.3f} s; "
            f"there is room for it after {least:.3f} to {most:.3f} s"
        )

    # Not a whole number of seconds, nor one that is rounded up: a key that expires by the second shows.
    quick = await limiter(gateway, redis, 2, 1.4)
    await asyncio.gather(quick.hit("bob"), quick.hit("bob"))
    refused = await quick.hit("bob")
    began, wait = refused.operation, refused.retry_after
    await testbed.until(lambda: now(testbed, began.start + 0.8 * wait), "most of retry_after had gone by")
    early = await quick.hit("bob")
    assert not early.allowed or early.operation.end >= began.start + wait - 0.005, (
        f"told to wait {wait:.3f} s, a hit was admitted after {early.operation.end - began.start:.3f} s"
    )
    await testbed.until(lambda: now(testbed, began.end + wait + 0.01), "retry_after had gone by")
    if not early.allowed:
        assert (await quick.hit("bob")).allowed is True, f"told to wait {wait:.3f} s, a hit waited and was refused"


# -- what it costs -----------------------------------------------------------------------------------------------


async def test_one_round_trip(testbed: Testbed) -> None:
    """A hit costs one round trip, admitted or refused, whatever it costs.

    Look: how many times your code awaits the server.
    """
    redis = await testbed.redis()
    gateway = await testbed.process("gateway-1")
    way = await testbed.proxy(redis)
    gate = await limiter(gateway, way, 5, 60.0)
    await gate.hit("bob")

    for what, cost in (("an admitted hit", 1), ("an admitted hit of cost 4", 4), ("a refused hit", 1)):
        before = way.proxy.counts
        await gate.hit(ANN, cost)
        trips = (way.proxy.counts - before).round_trips
        if not trips:
            raise Vacuous(f"{what} went past the proxy: nothing could be counted")
        assert trips == 1, f"{what} cost {trips} round trips; promised is 1"


async def test_memory_is_bounded(testbed: Testbed) -> None:
    """What is kept of a key does not grow by refused hits nor over many windows, and goes when nobody hits.

    Look: who takes out of Redis what has left the window, and when.
    """
    limit = 50
    redis = await testbed.redis()
    gateway = await testbed.process("gateway-1")
    slow, quick = await limiter(gateway, redis, limit, 60.0), await limiter(gateway, redis, limit, 0.2)

    filled = await burst([slow], ANN, limit)
    full = await size(redis)
    assert full, f"{limit} hits were asked for, and Redis knows of none of them"
    longest = max([await redis.truth.pttl(key) for key in await redis.truth.keys()]) / 1000
    since = testbed.history.now() - max(one.operation.start for one in filled)
    assert longest == -0.001 or longest >= 60 - since - 0.005, (
        f"{since:.3f} s after the last of {limit} hits, all that is known of it will be gone in {longest:.3f} s; it "
        "leaves the window after 60 s"
    )
    for _ in range(10):
        await burst([slow], ANN, limit)
    assert await size(redis) <= 1.1 * full + 100, (
        f"{limit} hits take {full:,} bytes; after {10 * limit} more, that were refused, it is {await size(redis):,}"
    )
    await bounded_life(redis, 60.0)
    await redis.truth.flushall()

    one_window = len(admitted(await demand(testbed, [quick], admissions=limit, within=2.0)))
    fullest = max(full, await size(redis))  # a slow machine needs more than one window to fill one
    decisions = await demand(testbed, [quick] * 3, admissions=5 * limit, within=4.0)
    grown = await size(redis)
    if len(admitted(decisions)) < 3 * one_window:
        raise Vacuous(f"{len(admitted(decisions))} hits were admitted: too few to show several windows")
    assert grown <= 1.5 * fullest + 100, (
        f"one window of {limit} hits takes {fullest:,} bytes; after several windows under demand it is {grown:,}"
    )
    await bounded_life(redis, 0.2)


async def size(redis: RedisServer) -> int:
    """Bytes of all keys."""
    return sum([await redis.truth.memory_usage(key, samples=0) or 0 for key in await redis.truth.keys()])


async def bounded_life(redis: RedisServer, per: float) -> None:
    """Every key is the limiter's by its name, and will be gone a second after its window at the latest."""
    for key in await redis.truth.keys():
        name, left = text(key), await redis.truth.pttl(key)
        assert name.startswith("rate:"), f"the limiter has made the key {name!r}; every key starts with 'rate:'"
        assert left != -1, f"the key {name!r} never expires: whoever hits once is remembered for ever"
        assert left <= (per + 1) * 1000, f"the key {name!r} of a window of {per:g} s stays for {left / 1000:g} s"


def text(key: bytes | str) -> str:
    """A key as it can be read."""
    return key.decode(errors="replace") if isinstance(key, bytes) else key


# -- without a server --------------------------------------------------------------------------------------------


async def test_decides_without_the_server(testbed: Testbed) -> None:
    """With a dead or silent server, or one that takes no writes, hits are decided as asked for within 0.2 s.

    The client itself would wait for 5 s. Once the server answers again, hits are counted again.

    Look: what bounds the wait, and what becomes of the exception.
    """
    redis = await testbed.redis()
    gateway = await testbed.process("gateway-1")
    opens = await limiter(gateway, redis, 3, 60.0, on_failure="open", timeout=0.1)
    closes = await limiter(gateway, redis, 3, 60.0, on_failure="closed", timeout=0.1)
    usual = await gateway.new("RateLimiter", redis.at(), 3, 60.0)
    patient = await limiter(gateway, redis, 3, 60.0, timeout=1.0)
    await opens.hit(ANN)
    await patient.hit(ANN)
    counted = [await usual.hit("joe") for _ in range(12)]
    assert not all(each.allowed for each in counted), (
        "with a server that is well, and without arguments of its own, a limiter of 3 admitted 12 hits"
    )

    async def decided(how: str) -> None:
        for gate, word in ((opens, "open"), (closes, "closed"), (usual, "open")):
            with testbed.within(0.2, f"a hit was decided, with a server that is {how}"):
                decision = await gate.hit("bob")
            assert decision.allowed is (word == "open"), (
                f"the server is {how}, on_failure is {word!r}{' by default' if gate is usual else ''}, and the hit was "
                f"{'admitted' if decision.allowed else 'refused'}"
            )
            told = (decision.remaining, decision.retry_after)
            assert told == (0, 0), f"the server is {how}, and remaining and retry_after are {told}; promised is 0"

    async def counts_again(how: str) -> None:
        left = [(await patient.hit(how)).remaining for _ in range(3)]
        assert left == [2, 1, 0], f"the server {how}, and after three hits of 3 on a new key there remain {left}"

    await redis.truth.replicaof("127.0.0.1", 1)  # nobody is there
    testbed.history.note(redis.name, "is a replica, which takes no writes")
    await decided("a replica")
    if not (await redis.truth.info("errorstats")).get("errorstat_READONLY"):
        raise Vacuous("the replica was asked to write nothing: what an error does could not be seen")
    await redis.truth.replicaof("NO", "ONE")
    await counts_again("takes writes again")
    async with testbed.paused(redis):
        await decided("silent")
        with testbed.within(1.5, "100 hits at once were decided, with a server that is silent and a timeout of 1 s"):
            await burst([patient], "bob", 100)
    await counts_again("goes on")
    await redis.kill()
    await decided("dead")
    await patient.hit("eve")
    await redis.restart()
    await counts_again("is back, with nothing in it")


async def test_a_slow_server_is_waited_for(testbed: Testbed) -> None:
    """An answer that comes within `timeout` decides, also when the network takes 0.06 s each way.

    The hit counts once, also when most of `timeout` has gone by.

    Look: whose time limit bounds the wait, and what is sent meanwhile.
    """
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    gate = await limiter(await testbed.process("gateway-1"), way, 2, 60.0, timeout=2.0)
    await gate.hit("bob")
    patient = await limiter(gate.process, way, 2, 60.0, timeout=3.0)
    held = way.proxy.hold_reply(lambda _: True)
    waiting = asyncio.create_task(patient.hit("eve"))
    reached = asyncio.create_task(held.reached(timeout=20))
    await asyncio.wait({reached, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():  # otherwise it has decided before it had asked
        most = testbed.history.now() + 2.4
        await testbed.until(lambda: now(testbed, most), "2.4 s had gone by")
    held.release()
    reached.cancel()
    late = await waiting
    assert (late.allowed, late.remaining) == (True, 1), (
        "the first hit of 2, with 3 s to wait for an answer that takes 2.4 s, is told allowed "
        f"{late.allowed}, {late.remaining} remain; promised are True and 1"
    )

    testbed.inject(way, Latency(0.06), Direction.BOTH)

    decisions = [await gate.hit(ANN) for _ in range(3)]
    allowed = [decision.allowed for decision in decisions]
    assert allowed == [True, True, False], (
        f"of three hits at a limit of 2, with 2 s to wait for an answer that takes 0.12 s, allowed were {allowed}"
    )
    assert decisions[2].retry_after > 50, "the third hit was refused without asking the server"
