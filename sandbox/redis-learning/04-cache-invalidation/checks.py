"""The grader of redis/04: what a cache in two levels promises when something is invalidated, and when the net fails."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

from faultline.testbed import (
    Age,
    BlackHole,
    Broken,
    BudgetMissed,
    Direction,
    Latency,
    LearnerProcess,
    ProxiedRedis,
    Raised,
    RedisServer,
    Refuse,
    Remote,
    Reset,
    Testbed,
    TestbedError,
    Vacuous,
)

SPREAD = 0.1  # seconds after which an invalidation is known everywhere
SOON = 2.0  # seconds where the time is not the subject
LATE = 3.0  # seconds more, after which it is plain that it never will be
BACK = 2.0  # seconds within which level 1 is in use again
SAFE = 10.0  # seconds that Redis may take where its silence is not the subject


@dataclass(eq=False)
class Stop:
    """One `load` that has read its row and does not answer yet."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let it answer."""
        self.gone.set()


@dataclass(eq=False)
class Shop:
    """A Redis, a database of texts with their tags, and instances of the learner's cache before them."""

    testbed: Testbed
    redis: RedisServer
    rows: dict[str, tuple[str, list[str]]] = field(default_factory=dict[str, tuple[str, list[str]]])
    loads: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    stops: dict[str, deque[Stop]] = field(default_factory=lambda: defaultdict(deque))

    def __post_init__(self) -> None:
        self.load = self.testbed.callback(self._load, name="load")

    @classmethod
    async def opened(cls, testbed: Testbed) -> Self:
        """With a server of its own."""
        return cls(testbed, await testbed.redis())

    async def cache(
        self,
        process: LearnerProcess,
        way: ProxiedRedis | None = None,
        *,
        ttl: float = 60.0,
        size: int = 1000,
        patience: float | None = SAFE,
    ) -> Remote:
        """The learner's cache in that process, not started."""
        options = {} if patience is None else {"patience": patience}
        return await process.new("CoherentCache", (way or self.redis).at(), self.load, ttl, size=size, **options)

    async def started(
        self,
        process: LearnerProcess,
        way: ProxiedRedis | None = None,
        *,
        ttl: float = 60.0,
        size: int = 1000,
        patience: float | None = SAFE,
    ) -> Remote:
        """The same, with level 1 in use."""
        made = await self.cache(process, way, ttl=ttl, size=size, patience=patience)
        await made.start()
        return made

    async def replicas(self, count: int) -> list[Remote]:
        """Started caches, each in a process of its own, whose wall clocks are minutes apart."""
        clocks = (120.0, -120.0, 0.0)
        return [
            await self.started(await self.testbed.process(f"catalog-{number + 1}", clock_offset=clocks[number]))
            for number in range(count)
        ]

    # -- the database --------------------------------------------------------------------------------------------

    def write(self, key: str, text: str, *tags: str) -> None:
        """From now on it is this."""
        self.rows[key] = text, list(tags)
        self.testbed.history.note("database", f"{key} = {text!r}")

    def stop(self, key: str) -> Stop:
        """The next `load` of this key reads, and stands still before it answers."""
        self.stops[key].append(Stop())
        return self.stops[key][-1]

    async def _load(self, key: str) -> tuple[str, list[str]]:
        self.loads[key] += 1
        row = self.rows[key]
        if self.stops[key]:
            stop = self.stops[key].popleft()
            stop.reached.set()
            await stop.gone.wait()
        return row

    async def reached(self, stop: Stop, get: asyncio.Task[str], what: str) -> None:
        """That `load` has read and stands still, or else the `get` has ended without it."""
        waiting = asyncio.create_task(stop.reached.wait())
        await asyncio.wait({waiting, get}, timeout=5 * self.testbed.patience, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not stop.reached.is_set():
            raise BudgetMissed(f"`load` was not called {what}", promise=f"`load` was called {what}", took=5.0)

    # -- what a get gives ----------------------------------------------------------------------------------------

    async def gives(self, of: Remote, key: str, when: str) -> None:
        """It hands out what is in the database, and nothing else."""
        got, text = await of.get(key), self.rows[key][0]
        if got != text:
            seen = f"{when}: get({key!r}) of {of.process.name} gave {got!r}; in the database is {text!r}"
            raise Broken(seen, self.testbed.history.operations()[-6:])

    async def remembers(self, of: Remote, key: str, when: str) -> None:
        """It knows it without `load`."""
        before = self.loads[key]
        await self.gives(of, key, when)
        assert self.loads[key] == before, f"{when}: get({key!r}) of {of.process.name} loaded what is remembered"

    async def learn(self, of: Remote, *keys: str) -> None:
        """It has them now; what is loaded while something else was invalidated may be loaded once more."""
        for key in keys:
            for _ in range(20):
                before = self.loads[key]
                await self.gives(of, key, "nothing was invalidated")
                if self.loads[key] == before:
                    break
            else:
                raise Broken(f"get({key!r}) of {of.process.name} loaded it 20 times in a row: nothing is remembered")

    async def level_1(self, of: Remote, way: ProxiedRedis, *keys: str, budget: float = BACK) -> None:
        """These are answered without a request now: level 1 is in use."""
        for key in keys:
            with self.testbed.within(budget, f"get({key!r}) of {of.process.name} was answered without asking Redis"):
                end = self.testbed.history.now() + (budget + LATE) * self.testbed.patience
                while await self.asks(of, way, key):
                    if self.testbed.history.now() > end:
                        raise Broken(
                            f"for {budget + LATE:g} s each get({key!r}) of {of.process.name} has asked Redis: level 1 "
                            "is not in use"
                        )

    async def asks(self, of: Remote, way: ProxiedRedis, *keys: str) -> int:
        """The requests that getting these has cost; what is said to keep a connection alive may be among them."""
        before = way.requests
        for key in keys:
            await of.get(key)
        return way.requests - before

    async def becomes(self, of: Remote, key: str, when: str, *, budget: float = SOON) -> None:
        """Soon it hands out what is in the database, and nothing else from then on."""
        text = self.rows[key][0]
        with self.testbed.within(budget, f"{when}, get({key!r}) of {of.process.name} gave {text!r}"):
            end = self.testbed.history.now() + (budget + LATE) * self.testbed.patience
            while (got := await of.get(key)) != text:
                if self.testbed.history.now() > end:
                    raise Broken(
                        f"{when}: {budget + LATE:g} s later get({key!r}) of {of.process.name} still gives {got!r}; in "
                        f"the database is {text!r}",
                        self.testbed.history.operations("get")[-2:],
                    )
        await self.gives(of, key, f"{when}, and one get had given the new value")

    async def heard(self, by: Remote, of: Remote) -> None:
        """Return when `by` has heard what `of` has invalidated until now: it has also heard something later."""
        self.write("canary", f"canary-{self.testbed.history.now()}")
        await of.invalidate("canary")
        await self.becomes(by, "canary", f"{of.process.name} had invalidated it")


def request(args: list[bytes]) -> bool:
    """A request that reads, stores or invalidates: it does not keep a connection alive, nor begins to listen."""
    return args[0].upper() != b"PING" and not subscribes(args)


def subscribes(args: list[bytes]) -> bool:
    """A request to be told of invalidations."""
    name, first = args[0].upper(), args[1].upper() if len(args) > 1 else b""
    return name in {b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"} or (name, first) == (b"CLIENT", b"TRACKING")


async def at(testbed: Testbed, instant: float) -> None:
    """Return when it is so late."""

    async def late() -> bool:
        return testbed.history.now() >= instant

    await testbed.until(late, "time had gone by", deadline=instant - testbed.history.now() + 5.0)


Forget = Callable[[Remote, str], Awaitable[None]]
"""Invalidates a key, whose row has the tag `t:` and the key."""


async def by_key(of: Remote, key: str) -> None:
    await of.invalidate(key)


async def by_tag(of: Remote, key: str) -> None:
    await of.invalidate_tag(f"t:{key}")


# -- the contract ------------------------------------------------------------------------------------------------


async def test_loads_once_for_all(testbed: Testbed) -> None:
    """What was loaded is remembered by the instance without asking Redis, and by all others without `load`.

    Also before `start`, also an empty text; what `load` raises is raised, and not remembered.

    Look: `CoherentCache.get` and `start` in the starter.
    """
    shop = await Shop.opened(testbed)
    here, there = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    one, other, early = await shop.started(here, way), await shop.started(there), await shop.cache(there)
    shop.write("hat", "hat-1", "clothes")
    shop.write("nothing", "")

    with testbed.raises("KeyError"):
        await one.get("ghost")
    shop.write("ghost", "ghost-1", "a", "b", "c")
    for key in ("hat", "nothing", "ghost"):
        await shop.gives(one, key, "it was not cached")
        await shop.level_1(one, way, key)
        await shop.remembers(early, key, f"{here.name} had it, {there.name} was not started")
        await shop.remembers(other, key, f"{here.name} had it")
    for number in range(100):  # more than once only where the machine was too slow to hear
        shop.write(f"fresh-{number}", "fresh")
        await one.get(f"fresh-{number}")
        if not await shop.asks(one, way, f"fresh-{number}"):
            break
    else:
        raise Broken("after 100 loads none was in level 1: the next get asked Redis for what had just been loaded")
    keys = [f"at once {number}" for number in range(5)]
    for key in keys:
        shop.write(key, key)
    before = len(shop.load.calls)
    shop.load.hold()
    gets = [asyncio.create_task(one.get(key)) for key in keys]
    await shop.load.called(before + 1)
    soon = testbed.history.now() + 0.3  # for those that load one after the other, as they may
    await testbed.until(
        lambda: asyncio.sleep(0, len(shop.load.calls) == before + 5 or testbed.history.now() > soon),
        "five were loading",
    )
    shop.load.release()
    await asyncio.gather(*gets)
    for key in keys:
        await shop.remembers(other, key, "five keys were loaded at the same time")
    asked = await shop.asks(one, way, *["hat", "nothing", "ghost"] * 10)
    assert asked <= 15, f"30 gets of what is in level 1 sent {asked} requests to Redis"
    assert shop.loads["hat"] == 1, f"'hat' was loaded {shop.loads['hat']} times by gets that came one after the other"


async def test_refuses_nonsense(testbed: Testbed) -> None:
    """An empty key or tag, no time to live and no room are refused with `ValueError`.

    Look: the last sentences of the docstrings in the starter.
    """
    shop = await Shop.opened(testbed)
    process = await testbed.process("catalog-1")
    one = await shop.cache(process, ttl=0.01, size=1)

    for what, call in {
        "get('')": lambda: one.get(""),
        "invalidate('')": lambda: one.invalidate(""),
        "invalidate_tag('')": lambda: one.invalidate_tag(""),
        "a ttl of 0 s": lambda: shop.cache(process, ttl=0.0),
        "a ttl of 0.009 s": lambda: shop.cache(process, ttl=0.009),
        "a size of 0": lambda: shop.cache(process, size=0),
        "a patience of 0 s": lambda: shop.cache(process, patience=0.0),
    }.items():
        try:
            with testbed.raises("ValueError"):
                await call()
        except Broken as error:
            raise Broken(f"{what}: {error}", error.witness) from error


async def test_invalidate_forgets_one_key(testbed: Testbed) -> None:
    """After `invalidate` the same instance loads that key again, at once, and no other; others follow within 0.1 s.

    Look: `CoherentCache.invalidate` in the starter; the two levels, and who has which.
    """
    shop = await Shop.opened(testbed)
    one, other = await shop.replicas(2)
    early = await shop.cache(one.process)
    for key in ("hat", "cup"):
        shop.write(key, f"{key}-0", f"t:{key}")
        await shop.learn(one, key)
        await shop.learn(other, key)

    for number in range(1, 4):
        shop.write("hat", f"hat-{number}", "t:hat")
        await one.invalidate("hat")
        await shop.gives(one, "hat", "the same instance had invalidated it")
        await shop.becomes(other, "hat", f"{one.process.name} had invalidated it", budget=SPREAD)
        await shop.learn(one, "hat")
        await shop.learn(other, "hat")
    shop.write("hat", "hat-4")
    await early.invalidate("hat")
    await shop.gives(early, "hat", "the same instance, which was not started, had invalidated it")
    await shop.becomes(one, "hat", "an instance that was not started had invalidated it")
    for each in (early, one, other):
        await shop.remembers(each, "cup", "only 'hat' was invalidated")
    await one.invalidate("never heard of")


async def test_a_tag_forgets_its_members(testbed: Testbed) -> None:
    """`invalidate_tag` makes every instance load again what has this tag now, and nothing else.

    Look: how you know whose value has a tag, and what that says of a value that was loaded again with other tags.
    """
    shop = await Shop.opened(testbed)
    one, other = await shop.replicas(2)
    early = await shop.cache(other.process)  # not started: it has what Redis has
    shop.write("hat", "hat-1", "sale", "clothes")
    shop.write("shoe", "shoe-1", "clothes")
    shop.write("pen", "pen-1", "office", "cloth")
    shop.write("cup", "cup-1")
    for each in (one, other):
        await shop.learn(each, "hat", "shoe", "pen", "cup")

    shop.write("hat", "hat-2", "office")
    shop.write("shoe", "shoe-2", "clothes")
    await one.invalidate_tag("clothes")
    await shop.gives(one, "hat", "the same instance had invalidated its tag 'clothes'")
    await shop.gives(one, "shoe", "the same instance had invalidated its tag 'clothes'")
    for key in ("hat", "shoe"):
        await shop.becomes(other, key, f"{one.process.name} had invalidated its tag 'clothes'", budget=SPREAD)
    for each in (early, one, other):
        for key in ("pen", "cup"):
            await shop.remembers(each, key, f"the tag 'clothes', which {key!r} does not have, was invalidated")
        await shop.learn(each, "hat", "shoe")

    await one.invalidate_tag("sale")
    await other.invalidate_tag("unheard of")
    await shop.heard(other, one)
    await shop.heard(one, other)
    for each in (early, one, other):
        await shop.remembers(each, "hat", "a tag that it had before it was loaded again was invalidated")
    shop.write("hat", "hat-3")
    await one.invalidate_tag("office")
    await shop.gives(one, "hat", "the same instance had invalidated the tag with which it was loaded again")
    await shop.becomes(other, "hat", "the tag with which it was loaded again had been invalidated")


async def test_names_do_not_meet(testbed: Testbed) -> None:
    """Keys and tags may be called alike, hold anything, or be called like a key in Redis; each stands for itself.

    Look: what your keys in Redis are called, and what a message says.
    """
    shop = await Shop.opened(testbed)
    one, other = await shop.replicas(2)
    names = ["hat", "t:hat", "k:hat", "hat:t", "{hat} *?[a]", "шляпа, \u201cneu\u201d\n"]
    for number, name in enumerate(names):
        shop.write(name, f"text {number}", names[number - 1])  # each has the tag that is called like the one before
        await shop.learn(one, name)
        await shop.learn(other, name)

    found = [key.decode(errors="replace") for key in await shop.redis.truth.keys() if isinstance(key, bytes)]
    if not found:
        raise Vacuous("there is no key in Redis: nothing can be called like one")
    for name in found:
        assert name.startswith("cache:"), f"there is the key {name!r} in Redis; every key begins with 'cache:'"
        shop.write(name, f"called like {name!r}", name)
        await shop.learn(one, name)
    for name in found:
        await one.invalidate_tag(name)
        await one.invalidate(name)
    await shop.heard(other, one)
    for name in names:
        await shop.remembers(other, name, "keys and tags that are called like keys in Redis were invalidated")

    for number, name in enumerate(names):
        shop.write(name, f"new text {number}", names[number - 1])
        await one.invalidate(name)
        await shop.gives(one, name, "it was invalidated")
        await shop.becomes(other, name, "it had been invalidated")
        await shop.learn(other, name)
        after = names[(number + 1) % len(names)]
        await shop.remembers(other, after, f"the key {name!r} was invalidated, {after!r} has a tag of that name")
    for number, name in enumerate(names):
        shop.write(name, f"last text {number}", names[number - 1])
        await one.invalidate_tag(names[number - 1])
        await shop.gives(one, name, f"its tag {names[number - 1]!r} was invalidated")
        await shop.becomes(other, name, f"its tag {names[number - 1]!r} had been invalidated")


# -- races, each in a given order ---------------------------------------------------------------------------------


async def late_load(shop: Shop, loader: Remote, writer: Remote, reader: Remote, key: str, forget: Forget) -> None:
    """`loader` loads; `writer` writes and invalidates; a second load runs when the first one comes back."""
    testbed = shop.testbed
    tag = f"t:{key}"
    shop.write(key, f"{key}-1", tag)
    stop = shop.stop(key)
    first = asyncio.create_task(loader.get(key))
    await shop.reached(stop, first, "by the first get")
    shop.write(key, f"{key}-2", tag)
    await forget(writer, key)
    testbed.history.note("database", f"the load that has read {key}-1 is about to answer")
    stop.release()
    assert await first in {f"{key}-1", f"{key}-2"}, "the first get gave something that was never in the database"
    await shop.gives(writer, key, "it was loaded before it was invalidated, and came back after that")
    await shop.gives(reader, key, "it was loaded before it was invalidated, and came back after that")
    if loader is not writer:
        await shop.becomes(loader, key, "it had loaded that before it was invalidated elsewhere")

    shop.write(key, f"{key}-3", tag)
    await forget(writer, key)
    await shop.heard(loader, writer)
    stops = shop.stop(key), shop.stop(key)
    first = asyncio.create_task(loader.get(key))
    await shop.reached(stops[0], first, "by the first get")
    shop.write(key, f"{key}-4", tag)
    await forget(writer, key)
    second = asyncio.create_task(reader.get(key))
    await shop.reached(stops[1], second, "after it was invalidated")
    stops[0].release()
    await first
    await shop.gives(writer, key, "an old load came back while a new one was running")
    stops[1].release()
    assert await second == f"{key}-4", f"a get that began after `invalidate` gave {await second!r}"
    await shop.gives(writer, key, "an old load had come back before a new one")
    await shop.becomes(loader, key, "it had loaded an old value, which came back before a new one")


async def test_a_late_load_is_not_remembered(testbed: Testbed) -> None:
    """What was loaded before `invalidate`, and comes back after it, is in no level: not even while a new load runs.

    The instance that loads is the one that invalidates.

    Look: what the load knows, when it wants to store, of the time since it began.
    """
    shop = await Shop.opened(testbed)
    one, other = await shop.replicas(2)

    await late_load(shop, one, one, other, "hat", by_key)


async def test_a_late_load_of_another_instance_is_not_remembered(testbed: Testbed) -> None:
    """The same, where one instance loads and another invalidates: neither, nor a third, has the old value afterwards.

    Look: where it is noted that a key was invalidated, and who looks there before storing.
    """
    shop = await Shop.opened(testbed)
    loader, writer, reader = await shop.replicas(3)

    await late_load(shop, loader, writer, reader, "hat", by_key)


async def test_a_tag_reaches_what_is_being_loaded(testbed: Testbed) -> None:
    """`invalidate_tag` also reaches a value whose load runs, though nobody knows yet which tags it will have.

    Look: what a load can compare at its end, when it knows its tags.
    """
    shop = await Shop.opened(testbed)
    loader, writer, reader = await shop.replicas(3)

    await late_load(shop, loader, writer, reader, "hat", by_tag)
    await late_load(shop, writer, writer, reader, "cup", by_tag)


async def test_nobody_joins_an_old_load(testbed: Testbed) -> None:
    """A `get` that begins after `invalidate` does not wait for a load that had begun before, on no instance.

    Also where the instance is not started, and cannot hear of it.

    Look: which of the loads that run a `get` may share, and when that ends.
    """
    shop = await Shop.opened(testbed)
    one, other = await shop.replicas(2)
    deaf = await shop.cache(other.process)
    await shop.heard(other, one)

    for number, (loader, forget) in enumerate(
        ((one, by_key), (one, by_tag), (other, by_key), (other, by_tag), (deaf, by_key), (deaf, by_tag))
    ):
        key = f"hat-{number}"
        shop.write(key, "old", f"t:{key}")
        stop = shop.stop(key)
        first = asyncio.create_task(loader.get(key))
        await shop.reached(stop, first, "by the first get")
        shop.write(key, "new", f"t:{key}")
        await forget(one, key)
        told = testbed.history.now()
        if loader is not one:
            await shop.heard(other, one)
            await at(testbed, told + SPREAD)
        second = asyncio.create_task(loader.get(key))
        await shop.gives(loader, "canary", "the second get had begun")  # so that it has come as far as it can
        stop.release()
        got, _ = await second, await first
        if got != "new":
            began = testbed.history.operations("get")[-2:]
            seen = "it joined the load that had begun before" if shop.loads[key] == 1 else "that was stored after all"
            raise Broken(
                f"a get began after the key was invalidated ({forget.__name__}) and gave {got!r}: {seen}", began
            )


async def late_answer(
    shop: Shop, way: ProxiedRedis, reader: Remote, key: str, meanwhile: Callable[[], Awaitable[object]], *, cached: bool
) -> None:
    """The first answer of Redis to a `get` comes late, after `meanwhile`: with the entry, or else to its being stored.

    The row changes at the beginning of `meanwhile`.
    """
    shop.write(key, "old", f"t:{key}")
    stop = None
    if not cached:
        stop = shop.stop(key)
        get = asyncio.create_task(reader.get(key))
        await shop.reached(stop, get, "by the get")
        hold = way.proxy.hold_reply(request)
        stop.release()
    else:
        hold = way.proxy.hold_reply(request)
        get = asyncio.create_task(reader.get(key))
    await shop.testbed.until(lambda: asyncio.sleep(0, hold.arrived or get.done()), "Redis was asked, or nobody asks it")
    if hold.arrived:
        shop.testbed.history.note("network", f"what Redis has answered to the get of {key!r} is held back")
    shop.write(key, "new", f"t:{key}")
    await meanwhile()
    hold.release()
    shop.testbed.history.note("network", "and arrives")
    await get


async def test_a_late_answer_is_not_kept(testbed: Testbed) -> None:
    """What Redis answered before `invalidate`, and arrives after the word of it, does not stay in level 1.

    Once it is the answer with the entry, once what Redis says when the loaded value is stored.

    Look: the two connections on which an entry and the word of its end arrive, in either order.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, reader = await shop.started(one), await shop.started(other, way)
    await shop.heard(reader, writer)

    for cached in (True, False):
        for forget in (by_key, by_tag):
            key = f"hat-{cached}-{forget.__name__}"
            if cached:
                shop.write(key, "old", f"t:{key}")
                await shop.learn(writer, key)

            async def meanwhile(key: str = key, forget: Forget = forget) -> None:
                await forget(writer, key)
                await shop.heard(reader, writer)

            await late_answer(shop, way, reader, key, meanwhile, cached=cached)
            await shop.becomes(reader, key, "Redis had answered before it was invalidated, and that came late")

    shop.write("pen", "pen-1")
    shop.write("gap", "old", "t:gap")
    await shop.learn(writer, "gap", "pen")

    async def broken_meanwhile() -> None:
        killed = await shop.redis.truth.client_kill_filter(_type="pubsub")
        testbed.history.note(shop.redis.name, f"has closed the connections of those who subscribe: {killed}")
        await writer.invalidate("gap")
        if killed:  # by then most listen again; who does not cannot keep anything either
            await at(testbed, testbed.history.now() + 0.7)
        await shop.level_1(reader, way, "pen")

    await late_answer(shop, way, reader, "gap", broken_meanwhile, cached=True)
    await shop.becomes(reader, "gap", "Redis had answered before it was invalidated, which nobody could hear just then")


async def steps(way: ProxiedRedis, of: Awaitable[object], what: str) -> int:
    """How many requests this sends when nothing disturbs it."""
    before = len(way.proxy.commands)
    await of
    sent = [command for command in way.proxy.commands[before:] if not command.handshake and request(command.args)]
    if not sent:
        raise Vacuous(f"{what} sent no request: none can be held back")
    return len(sent)


async def test_a_late_store_is_not_kept(testbed: Testbed) -> None:
    """Each request of a `get` that loads is held back in turn until the key is invalidated: the old value is not kept.

    Look: the time between seeing that the value may be stored and storing it.
    """
    shop = await Shop.opened(testbed)
    one, other, third = await testbed.processes(3, "catalog")
    way = await testbed.proxy(shop.redis)
    loader, writer, reader = await shop.cache(one, way), await shop.started(other), await shop.started(third)
    shop.write("pen", "pen-1", "t:pen")
    shop.write("cup", "cup-1", "t:cup")
    await shop.learn(loader, "pen")
    count = await steps(way, loader.get("cup"), "a get that loads")

    for forget in (by_key, by_tag):
        for position in range(count):
            key = f"hat-{position}-{forget.__name__}"
            shop.write(key, "old", f"t:{key}")
            hold = way.proxy.hold(request, skip=position)
            get = asyncio.create_task(loader.get(key))
            await testbed.until(lambda hold=hold, get=get: asyncio.sleep(0, hold.arrived or get.done()), "it was asked")
            if hold.arrived:
                testbed.history.note("network", f"request {position + 1} of the get of {key!r} is held back")
            shop.write(key, "new", f"t:{key}")
            await forget(writer, key)
            held = way.proxy.counts.bytes_to_server
            hold.release()
            await get
            if hold.arrived:  # whoever sent it may have given up long ago: it arrives all the same
                await testbed.until(
                    lambda held=held: asyncio.sleep(0, way.proxy.counts.bytes_to_server > held), "what was held arrived"
                )
                await loader.get("pen")
            when = f"request {position + 1} of the get that loaded it arrived after it was invalidated"
            await shop.gives(reader, key, when)
            await shop.gives(loader, key, when)


async def test_no_gap_within_an_invalidation(testbed: Testbed) -> None:
    """Each request of an invalidation is held back in turn while another instance reads: that keeps nothing old of it.

    Look: in which order Redis forgets and the others are told, and what a get in between finds.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, reader = await shop.started(one, way), await shop.started(other)
    shop.write("cup", "cup-1", "t:cup")
    await shop.learn(writer, "cup")

    for forget in (by_key, by_tag):
        await forget(writer, "cup")  # so that scripts are known
        await shop.learn(writer, "cup")
        count = await steps(way, forget(writer, "cup"), "an invalidation")
        for position in range(count):
            key = f"hat-{position}-{forget.__name__}"
            shop.write(key, "old", f"t:{key}")
            await shop.learn(writer, key)
            await shop.learn(reader, key)
            hold = way.proxy.hold(request, skip=position)
            shop.write(key, "new", f"t:{key}")
            forgetting = asyncio.create_task(forget(writer, key))
            await testbed.until(
                lambda hold=hold, task=forgetting: asyncio.sleep(0, hold.arrived or task.done()), "it was asked"
            )
            if hold.arrived:
                testbed.history.note("network", f"request {position + 1} of the invalidation is held back")
            else:
                hold.release()
            for _ in range(10):
                await reader.get(key)
                await writer.get(key)
            hold.release()
            await forgetting
            when = f"it was read while request {position + 1} of its invalidation was held back"
            await shop.gives(writer, key, when)
            await shop.becomes(reader, key, when)


async def test_level_1_waits_until_it_can_hear(testbed: Testbed) -> None:
    """Nothing that was read before the instance could hear gets into level 1, however `start` and `get` meet.

    Look: the moment from which on nothing is missed, and how old an answer of Redis may be.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer = await shop.started(one)
    shop.write("cup", "cup-1")
    shop.write("pen", "pen-1")
    await shop.learn(writer, "cup", "pen")

    reader = await shop.cache(other, way)
    shop.write("hat", "old")
    await shop.learn(writer, "hat")
    await shop.learn(reader, "pen")

    async def meanwhile() -> None:
        await writer.invalidate("hat")
        await reader.start()

    await late_answer(shop, way, reader, "hat", meanwhile, cached=True)
    await shop.gives(reader, "hat", "it was read and invalidated before `start`, and arrived after it")
    await reader.stop()

    await shop.learn(reader, "pen")
    hold = way.proxy.hold(subscribes)
    starting = asyncio.create_task(reader.start())
    asked = testbed.history.now()
    await testbed.until(lambda: asyncio.sleep(0, hold.arrived or starting.done()), "it subscribes")
    if starting.done() and testbed.history.now() < asked + 0.1:  # later it may have given up waiting, as it should
        await at(testbed, asked + 0.3)
        assert not hold.arrived, "`start` returned before its request to be told of anything had arrived at Redis"
    await shop.gives(reader, "cup", "it has asked to be told of invalidations, and is not yet")
    shop.write("cup", "cup-2")
    await writer.invalidate("cup")
    hold.release()
    await starting
    await shop.level_1(reader, way, "pen")
    await shop.gives(reader, "cup", "it was invalidated before the instance could hear of it")


async def test_a_call_that_ends_disturbs_no_other(testbed: Testbed) -> None:
    """Of two `get`s of a key one is cancelled while it loads: the other has its value; so has everybody afterwards.

    And what `load` raises reaches everybody who waits for it.

    Look: whose task a load runs in, and what becomes of those who wait for it.
    """
    shop = await Shop.opened(testbed)
    [one] = await shop.replicas(1)
    shop.write("hat", "hat-1")
    shop.write("pen", "pen-1")

    stop = shop.stop("hat")
    call = one.process.call(one, "get", "hat")
    first = asyncio.ensure_future(call)
    await shop.reached(stop, first, "by the first get")
    second = asyncio.create_task(one.get("hat"))
    await shop.gives(one, "pen", "the second get had begun")
    assert await call.cancel(), "a get that was cancelled while it loaded went on, and gave a value"
    stop.release()
    for get, what in ((second, "a get that had begun before another was cancelled"), (None, "a later get")):
        waiting = get or asyncio.create_task(one.get("hat"))
        done, _ = await asyncio.wait({waiting}, timeout=5 * testbed.patience)
        if not done:
            raise BudgetMissed(f"{what} still waits after 5 s", promise=f"{what} ended", took=5.0)
        assert await waiting == "hat-1", f"{what} gave {await waiting!r}"
    await asyncio.gather(first, return_exceptions=True)

    before = len(shop.load.calls)
    shop.write("cup", "cup-1")
    shop.load.hold()
    gets = [asyncio.create_task(one.get("cup")) for _ in range(3)]
    await shop.load.called(before + 1)
    await shop.gives(one, "pen", "all three had begun")
    shop.load.release()
    for get in gets:
        assert await get == "cup-1", f"of three gets at once, whether they share a load or not, one gave {await get!r}"

    before = len(shop.load.calls)
    shop.load.hold()
    gets = [asyncio.create_task(one.get("ghost")) for _ in range(2)]
    await shop.load.called(before + 1)
    await shop.gives(one, "pen", "both gets had begun")
    shop.load.release()
    for get in gets:
        with testbed.raises("KeyError"):
            await get
    shop.write("ghost", "ghost-1")
    await shop.gives(one, "ghost", "its load had failed, and does so no more")


# -- faults ------------------------------------------------------------------------------------------------------


async def test_a_broken_connection_empties_level_1(testbed: Testbed) -> None:
    """What is invalidated while an instance cannot hear of it is not in its level 1: neither then nor afterwards.

    Its connections are reset, and new ones refused for a while; level 1 is in use again 2 s after that.

    Look: what the client does about a broken connection by itself, and what your code learns of it.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, reader = await shop.started(one), await shop.started(other, way, patience=0.2)
    for key in ("hat", "cup", "pen"):
        shop.write(key, "old", f"t:{key}")
        await shop.gives(reader, key, "it was not cached")
        await shop.level_1(reader, way, key)

    shop.write("cap", "old")
    stop = shop.stop("cap")
    first = asyncio.create_task(reader.get("cap"))
    await shop.reached(stop, first, "by the get")
    for forget, text in ((by_key, "new"), (by_tag, "newer")):
        testbed.inject(way, Refuse())
        testbed.inject(way, Reset(ages=frozenset({Age.OPEN})))
        for key in ("hat", "cup"):
            shop.write(key, text, f"t:{key}")
            await forget(writer, key)
        await shop.becomes(reader, "hat", "it was invalidated while the connection was broken")
        way.proxy.heal()
        testbed.history.note("network", "connections are possible again")
        await shop.level_1(reader, way, "pen")
        for key in ("cup", "hat"):
            await shop.gives(reader, key, "it was invalidated while the connection was broken, which is back")
            await shop.level_1(reader, way, key)
    shop.write("cap", "new")
    await writer.invalidate("cap")
    await shop.heard(reader, writer)
    second = asyncio.create_task(reader.get("cap"))
    await shop.gives(reader, "pen", "a second get of 'cap' had begun")
    stop.release()
    got, _ = await second, await first
    assert got == "new", f"a load from before the break was still shared after it: get('cap') gave {got!r}"


async def test_a_silent_network_is_noticed(testbed: Testbed) -> None:
    """A network that carries nothing any more, and does not say so, is noticed within 2 s: then level 1 is not used.

    Look: how a listener that hears nothing tells peace from death.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, reader = await shop.started(one), await shop.started(other, way, patience=0.2)
    for key in ("hat", "cup", "pen"):
        shop.write(key, "old")
        await shop.gives(reader, key, "it was not cached")
        await shop.level_1(reader, way, key)

    for _ in range(4):  # more than once only where the machine was too slow to hear
        for key in ("hat", "cup", "pen"):
            await reader.get(key)
        await at(testbed, testbed.history.now() + 1.3)
        if await shop.asks(reader, way, "hat", "cup", "pen") < 3:
            break
    else:
        raise Broken("nothing was said for 1.3 s, the network was well, and what was in level 1 is not there any more")

    for value in ("new", "newer"):  # twice: who stood still for half a second may have noticed by that alone
        testbed.inject(way, BlackHole())
        for key in ("hat", "cup"):
            shop.write(key, value)
            await writer.invalidate(key)
        await shop.becomes(reader, "hat", "the network had fallen silent", budget=2.0)
        way.proxy.heal()
        testbed.history.note("network", "carries everything again")
        await shop.level_1(reader, way, "pen")
        await shop.gives(reader, "cup", "it was invalidated while the network was silent, which is back")
        await shop.level_1(reader, way, "hat", "cup")


async def test_a_silent_subscription_is_noticed(testbed: Testbed) -> None:
    """Only the connection that an instance hears on falls silent, all others work: that is noticed within 2 s, too.

    Look: which connection a sign of life must come on to say something about this one.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, reader = await shop.started(one), await shop.started(other, way)
    for key in ("hat", "pen"):
        shop.write(key, "old")
        await shop.gives(reader, key, "it was not cached")
        await shop.level_1(reader, way, key)

    testbed.inject(way, BlackHole(), on=subscribes)
    shop.write("hat", "new")
    await writer.invalidate("hat")
    await shop.becomes(reader, "hat", "the connection on which it hears had fallen silent, and no other", budget=2.0)
    await shop.level_1(reader, way, "pen")
    shop.write("pen", "new")
    await writer.invalidate("pen")
    await shop.becomes(reader, "pen", "it had a new connection on which it hears")


async def unavailable(shop: Shop, of: Remote, how: str) -> None:
    """The server is dead or silent: `get` loads and is right, an invalidation raises, and all of it in time."""
    testbed = shop.testbed
    for forget, key in ((by_key, "hat"), (by_tag, "cap")):
        shop.write(key, f"{forget.__name__}, with a server that is {how}", f"t:{key}")
        with (
            testbed.within(0.5, f"an invalidation had failed, with a server that is {how}"),
            testbed.raises("CacheUnavailable"),
        ):
            await forget(of, key)
        with testbed.within(0.5, f"a get had loaded, with a server that is {how}"):
            await shop.gives(of, key, f"the server is {how}, and this instance was to invalidate it")


async def insisting(testbed: Testbed, forget: Forget, of: Remote, key: str) -> None:
    """The server is back: at the latest after 2 s an invalidation is confirmed."""
    with testbed.within(BACK, f"an invalidation of {of.process.name} was confirmed by a server that is back"):
        end = testbed.history.now() + (BACK + LATE) * testbed.patience
        while True:
            try:
                return await forget(of, key)
            except Raised as error:
                if "CacheUnavailable" not in error.bases or testbed.history.now() > end:
                    raise


async def test_works_without_the_server(testbed: Testbed) -> None:
    """With a dead or silent server `get` loads, an invalidation raises `CacheUnavailable`, each within 0.5 s.

    `start` and `stop` return within 1 s. Once the server answers again all is as before, 2 s later at the latest.

    Look: what bounds each wait, and which exceptions mean that no answer came.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, usual = [await shop.started(one, patience=None) for _ in range(2)]
    reader, late = await shop.started(other, way), await shop.cache(other, way)
    shop.write("hat", "hat-1", "t:hat")
    shop.write("cap", "cap-1", "t:cap")
    shop.write("pen", "pen-1")
    shop.write("cup", "cup-1")
    await shop.learn(reader, "hat", "pen")
    await shop.learn(writer, "hat", "cap")

    async def starts(how: str) -> None:
        with testbed.within(1.0, f"start had returned, with a server that is {how}"):
            await late.start()

    async def stops_and_stores() -> None:
        with testbed.within(1.0, "stop had returned, with a server that is silent"):
            await usual.stop()
        stop.release()
        with testbed.within(0.5, "a get had ended after its load, with a server that is silent"):
            assert await loading == "cup-1", (
                f"the server is silent, and a get gave {await loading!r}, not what it loaded"
            )

    async def as_before(how: str) -> None:
        await shop.level_1(reader, way, "pen")
        await shop.level_1(late, way, "pen")
        shop.write("hat", f"the server {how}", "t:hat")
        await insisting(testbed, by_key, writer, "hat")
        for each in (reader, late):
            await shop.becomes(each, "hat", f"the server {how}")
            await shop.learn(each, "hat")

    stop = shop.stop("cup")
    loading = asyncio.create_task(writer.get("cup"))
    await shop.reached(stop, loading, "by the get")
    async with testbed.paused(shop.redis):
        await asyncio.gather(unavailable(shop, writer, "silent"), starts("silent"), stops_and_stores())
    await as_before("goes on")
    await late.stop()
    await shop.redis.kill()
    await asyncio.gather(unavailable(shop, writer, "dead"), starts("dead"))
    await shop.redis.restart()
    await as_before("is back, with nothing in it")


async def test_a_slow_server_is_waited_for(testbed: Testbed) -> None:
    """With a patience of 2 s an answer that takes 0.12 s counts: what Redis has is not loaded, what is invalidated is.

    Look: whose time limit bounds the wait.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    near, far = await shop.started(one), await shop.cache(other, way, patience=2.0)
    shop.write("hat", "hat-1", "t:hat")
    shop.write("cup", "cup-1")
    await shop.learn(near, "hat")
    await shop.learn(far, "cup")
    await far.invalidate("pen")
    await far.invalidate_tag("pen")

    testbed.inject(way, Latency(0.06), Direction.BOTH)
    await shop.remembers(far, "hat", "an answer takes 0.12 s, and Redis has it")
    for forget, text in ((by_key, "hat-2"), (by_tag, "hat-3")):
        shop.write("hat", text, "t:hat")
        await forget(far, "hat")
        await shop.gives(far, "hat", "it was invalidated by a request whose answer takes 0.12 s")
        await shop.remembers(near, "hat", "an instance that is far away had loaded and stored it")


async def test_a_server_that_forgets_brings_nothing_back(testbed: Testbed) -> None:
    """Redis may lose all it knows, also between an invalidation and the end of a load: nothing old comes back by that.

    Look: what it means when a version, a lease or an index is not there.
    """
    shop = await Shop.opened(testbed)
    loader, writer, reader = await shop.replicas(3)

    async def forgets() -> None:
        await shop.redis.truth.flushall()
        testbed.history.note(shop.redis.name, "has forgotten everything (FLUSHALL)")

    for number, forget in enumerate((by_key, by_tag)):
        for first_of_all, flush_first in ((False, False), (True, True), (True, False)):
            key = f"hat-{number}-{first_of_all}-{flush_first}"
            shop.write(key, "old", f"t:{key}")
            if first_of_all:
                await forget(writer, key)
            stop = shop.stop(key)
            get = asyncio.create_task(loader.get(key))
            await shop.reached(stop, get, "by the get")
            if flush_first:
                await forgets()
            shop.write(key, "new", f"t:{key}")
            await forget(writer, key)
            if not flush_first:
                await forgets()
            stop.release()
            await get
            await shop.gives(reader, key, "its load began before it was invalidated, and Redis has forgotten all since")
            await shop.becomes(loader, key, "it had loaded it before it was invalidated, and Redis has forgotten all")

        key = f"cup-{number}"
        shop.write(key, "old", f"t:{key}")
        await shop.learn(writer, key)
        await shop.learn(loader, key)
        await forgets()
        shop.write(key, "new", f"t:{key}")
        await forget(writer, key)
        await shop.becomes(loader, key, "it was invalidated after Redis had forgotten everything")


async def evict(shop: Shop, position: int) -> str:
    """Redis forgets the key that comes at this place of the alphabet: its name, or nothing if there are not so many."""
    names = sorted(await shop.redis.truth.keys())
    if position >= len(names):
        return ""
    await shop.redis.truth.delete(names[position])
    shop.testbed.history.note(shop.redis.name, f"has evicted {names[position]!r}")
    return f"{names[position]!r}"


async def test_each_key_may_be_evicted(testbed: Testbed) -> None:
    """Redis may forget each single key at any time, as a full one does: nothing old comes back by that.

    One key is deleted: before the key or its tag is invalidated, after that, or while an old load is still running.

    Look: what an entry says when the index of its tag, or the note of an invalidation, is gone.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    writer, reader = await shop.cache(one), await shop.cache(other)
    evicted: list[str] = []

    for moment in ("first of all", "after that", "before the load ended"):
        for forget, position in ((forget, position) for forget in (by_key, by_tag) for position in range(10)):
            key = f"hat-{position}"
            await shop.redis.truth.flushall()
            shop.write(key, "old", f"t:{key}", "clothes")
            stop = shop.stop(key)
            get = asyncio.create_task(writer.get(key))
            await shop.reached(stop, get, "by the get")
            if moment != "before the load ended":
                stop.release()
                await get
            name = await evict(shop, position) if moment == "first of all" else ""
            shop.write(key, "new", f"t:{key}", "clothes")
            await forget(reader, key)
            name = name if moment == "first of all" else await evict(shop, position)
            stop.release()
            await get
            if name:
                evicted.append(name)
                when = f"it was invalidated ({forget.__name__}); {moment} Redis had evicted {name}"
                await shop.gives(reader, key, when)
    if not evicted:
        raise Vacuous("there was never a key in Redis: none could be evicted")


# -- bounds ------------------------------------------------------------------------------------------------------


async def test_nothing_outlives_its_ttl(testbed: Testbed) -> None:
    """A value is handed out for `ttl` seconds after its load, whichever level it comes from, and no longer.

    Also when the load or the answer of Redis took its time; and as long as one is, its tag reaches it.

    Look: the time to live of what level 1 has taken from Redis, and of what knows the members of a tag.
    """
    for ttl in (1.0, 2.0, 4.0):  # longer ones for a machine that is too slow for short ones
        shop = await Shop.opened(testbed)
        one = await shop.started(await testbed.process("catalog-1", clock_offset=120.0), ttl=ttl)
        other = await shop.started(await testbed.process("catalog-2", clock_offset=-120.0), ttl=ttl)
        way = await testbed.proxy(shop.redis)
        far = await shop.started(await testbed.process("catalog-3"), way, ttl=ttl)
        shop.write("slow", "slow-1", "clothes")
        stop = shop.stop("slow")
        slow = asyncio.create_task(one.get("slow"))
        await shop.reached(stop, slow, "by the get")
        shop.write("hat", "hat-1", "clothes")
        began = testbed.history.now()
        await shop.gives(one, "hat", "it was not cached")
        loaded = testbed.history.now()

        await at(testbed, began + 0.6 * ttl)
        released = testbed.history.now()
        stop.release()
        await slow
        loads = shop.loads["hat"] + shop.loads["slow"]
        await shop.gives(other, "hat", "another instance had loaded it")
        await shop.gives(other, "slow", "another instance had loaded it")
        if testbed.history.now() > min(began + 0.9 * ttl, released + 0.3 * ttl):
            continue
        assert shop.loads["hat"] + shop.loads["slow"] == loads, (
            f"of a ttl of {ttl:g} s 0.6 were over for one value; the load of another took so long, and has just ended; "
            "another instance loaded one of them again"
        )

        held = way.proxy.hold_reply(request)
        asked = asyncio.create_task(far.get("hat"))
        await held.reached(timeout=20)
        await at(testbed, testbed.history.now() + 0.3 * ttl)
        held.release()
        await asked

        shop.write("hat", "hat-2", "clothes")
        await at(testbed, loaded + ttl + 0.05)
        await shop.gives(far, "hat", f"its ttl of {ttl:g} s is over; the answer of Redis had taken {0.3 * ttl:g} s")
        await shop.gives(other, "hat", f"its ttl of {ttl:g} s is over; this instance had it from Redis")
        await shop.gives(one, "hat", f"its ttl of {ttl:g} s is over")

        # Both had the tag. It was first given to the one that has expired, and the other is not as old.
        deaf, loads = await shop.cache(far.process, ttl=ttl), shop.loads["slow"]
        await shop.gives(deaf, "slow", "it is not as old as the tag's first member, which had expired")
        if testbed.history.now() > released + 0.9 * ttl:
            continue
        assert shop.loads["slow"] == loads, (
            f"{released - began:.1f} s after one value another with the same tag was loaded, for {ttl:g} s; when the "
            "first had expired, the second was loaded again"
        )
        old = "the tag's first member had expired; this younger one was invalidated by the tag"
        shop.write("slow", "slow-2", "clothes")
        await one.invalidate_tag("clothes")
        if testbed.history.now() > released + 0.9 * ttl:
            continue
        await shop.gives(one, "slow", old)
        await shop.becomes(other, "slow", old, budget=SPREAD)
        return
    raise TestbedError("this machine is too slow for a few gets within 1 s; close what you can and check again")


async def lives(redis: RedisServer) -> dict[bytes | str, float]:
    """For how many seconds each key that expires has still to live."""
    left = {key: await redis.truth.pttl(key) / 1000 for key in await redis.truth.keys()}
    return {key: seconds for key, seconds in left.items() if seconds > 0}


async def age(shop: Shop, seconds: float) -> None:
    """All that expires is so much older at once."""
    for key, left in (await lives(shop.redis)).items():
        if left > seconds:
            await shop.redis.truth.pexpire(key, round((left - seconds) * 1000))
        else:
            await shop.redis.truth.delete(key)
    shop.testbed.history.note(shop.redis.name, f"whatever expires does so {seconds:.1f} s sooner")


async def test_a_load_after_another_is_kept(testbed: Testbed) -> None:
    """A load that begins while another instance has been loading for long is kept, however old the other's trace is.

    All traces of the first load in Redis are made so old that one of them has a second to live; the next load takes
    longer than that.

    Look: when the right to store ends, and whether that of a second load begins anew.
    """
    shop = await Shop.opened(testbed)
    early, late, reader = [await shop.cache(process) for process in await testbed.processes(3, "catalog")]

    for position in range(5):
        key = f"hat-{position}"
        await shop.redis.truth.flushall()
        shop.write(key, key, f"t:{key}")
        stops = shop.stop(key), shop.stop(key)
        first = asyncio.create_task(early.get(key))
        await shop.reached(stops[0], first, "by the first get")
        ends = sorted({round(left) for left in (await lives(shop.redis)).values()})
        if position < len(ends):
            await age(shop, ends[position] - 1.0)
            second = asyncio.create_task(late.get(key))
            await shop.reached(stops[1], second, "by another instance")
            await at(testbed, testbed.history.now() + 1.6)
            stops[1].release()
            await second
            await shop.remembers(reader, key, "a load that began after another one, and took 1.6 s, has just ended")
        stops[0].release()
        await first
        if position >= len(ends):
            break


async def test_level_1_is_bounded(testbed: Testbed) -> None:
    """Level 1 holds at most `size` entries, and what fits is held.

    Look: when an entry is given up.
    """
    shop = await Shop.opened(testbed)
    process = await testbed.process("catalog-1")
    way = await testbed.proxy(shop.redis)
    keys = [f"hat-{number}" for number in range(20)]
    for key in keys:
        shop.write(key, key)

    for size in (1, 19):
        small = await shop.started(process, way, size=size)
        await shop.asks(small, way, *keys)
        asked = await shop.asks(small, way, *keys)
        assert asked >= 20 - size, (
            f"with a size of {size}, 20 keys were got twice, and the second time sent {asked} requests; at least "
            f"{20 - size} cannot have been in level 1"
        )
        await small.stop()
    ample = await shop.started(process, way, size=100)
    await shop.asks(ample, way, *keys)
    asked = await shop.asks(ample, way, *keys)
    assert asked <= 10, f"with a size of 100, 20 keys were got twice, and the second time sent {asked} requests"
    one = await shop.started(process, way, size=1)
    await shop.gives(one, "hat-1", "nothing was invalidated")
    await shop.level_1(one, way, "hat-1")


async def test_a_tag_costs_what_its_members_cost(testbed: Testbed) -> None:
    """Invalidating a tag of 10 members costs Redis as much among 100 other entries as among none: no KEYS, no SCAN.

    Look: how you find the members.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, filler = await shop.started(one, way), await shop.started(other)
    members = [f"hat-{number}" for number in range(10)]

    async def cost() -> tuple[int, int]:
        for key in members:
            shop.write(key, key, "clothes", "all")
        await shop.learn(filler, *members)
        await shop.redis.truth.config_resetstat()
        before = way.proxy.counts.bytes_to_client
        await writer.invalidate_tag("clothes")
        received = way.proxy.counts.bytes_to_client - before
        calls = {name: stat["calls"] for name, stat in (await shop.redis.truth.info("commandstats")).items()}
        for name in ("keys", "scan", "randomkey"):
            assert not calls.get(f"cmdstat_{name}"), f"to invalidate a tag, {name.upper()} looked at every key in Redis"
        return sum(calls.values()), received

    await writer.invalidate_tag("clothes")
    commands, received = await cost()
    if not commands:
        raise Vacuous("invalidating a tag cost Redis no command: nothing was counted")
    others = [f"cup-{number}" for number in range(100)]
    for number, key in enumerate(others):
        shop.write(key, key, "cups", "all", f"t:{number}")
    for start in range(0, 100, 10):
        await asyncio.gather(*(filler.get(key) for key in others[start : start + 10]))
    await shop.learn(filler, "cup-7")
    more, longer = await cost()
    assert more <= commands + 20, f"10 members alone cost {commands} commands, and {more} among 100 other entries"
    assert longer <= received + 1000, (
        f"invalidating 10 members alone, Redis answered with {received:,} bytes, and with {longer:,} among 100 others"
    )
    await shop.remembers(filler, "cup-7", "another tag was invalidated")


async def largest(redis: RedisServer) -> int:
    """Bytes of the largest key: an index, if there is one."""
    return max([await redis.truth.memory_usage(key, samples=0) or 0 for key in await redis.truth.keys()], default=0)


async def fill(shop: Shop, of: Remote, name: str) -> None:
    """Load 40 entries of a tag that is in use all the time."""
    keys = [f"a name of some length that goes away {name} {each}" for each in range(40)]
    for key in keys:
        shop.rows[key] = "", ["in use all the time"]
    for start in range(0, 40, 10):
        await asyncio.gather(*(of.get(key) for key in keys[start : start + 10]))


async def use(shop: Shop, of: Remote, ttl: float) -> None:
    """Load something with the same tag now and then, for two ttls."""
    end = shop.testbed.history.now() + 2.1 * ttl
    while (before := shop.testbed.history.now()) < end:
        await at(shop.testbed, before + 0.3 * ttl)
        shop.rows[f"{ttl} {before}"] = "", ["in use all the time"]
        await of.get(f"{ttl} {before}")


def longest_gap(testbed: Testbed, since: float) -> float:
    """The longest time in which no get has ended: in a longer one an index that nobody cleans expires as a whole."""
    ends = sorted(get.end for get in testbed.history.operations("get") if get.end and get.start >= since)
    return max(later - earlier for earlier, later in pairwise(ends))


async def test_what_is_gone_leaves_nothing_in_redis(testbed: Testbed) -> None:
    """Entries that have expired leave no name behind, in no index; and everything expires, but two keys at most.

    Look: who takes the name of an entry out of the index of a tag that is in use all the time.
    """
    shop = await Shop.opened(testbed)
    process = await testbed.process("catalog-1", clock_offset=120.0)
    lasting = await shop.cache(process, ttl=10.0)
    await fill(shop, lasting, "last")
    full = await largest(shop.redis)
    for ttl in (0.25, 0.75, 2.0):  # longer ones for a machine that is too slow for short ones
        brief = await shop.cache(process, ttl=ttl)
        await shop.redis.truth.flushall()
        began = testbed.history.now()
        await fill(shop, brief, f"{ttl} 1")
        await use(shop, brief, ttl)
        await fill(shop, brief, f"{ttl} 2")
        await use(shop, brief, ttl)
        await fill(shop, brief, f"{ttl} 3")
        left = await largest(shop.redis)
        if longest_gap(testbed, began) < 0.8 * ttl:
            break
    else:
        raise TestbedError("this machine is too slow to load something every 1.6 s; close what you can and check again")
    assert left <= 1.5 * full + 500, (
        f"with 40 entries of a tag in the cache the largest key has {full:,} bytes; with 40 that came after twice 40 "
        f"had expired it has {left:,}: each leaves something behind"
    )

    await shop.redis.truth.flushall()
    for number in range(5):
        shop.write(f"hat-{number}", "", "clothes", f"t:{number}")
        await shop.learn(lasting, f"hat-{number}")
        with testbed.raises("KeyError"):
            await lasting.get(f"ghost-{number}")
    await lasting.invalidate("hat-1")
    await lasting.invalidate("hat-none")
    await lasting.invalidate_tag("t:2")
    await lasting.invalidate_tag("t:none")
    left = {key: await shop.redis.truth.pttl(key) for key in await shop.redis.truth.keys()}
    for_ever = [key for key, milliseconds in left.items() if milliseconds == -1]
    assert len(for_ever) <= 2, f"these keys never expire: {for_ever[:4]}; at most two may stay"
    longest = max(left.values()) / 1000
    assert longest <= 60 + 2 * 10.0, f"with a ttl of 10 s a key stays for {longest:g} s; promised are 80 at most"


async def test_stop_leaves_nothing(testbed: Testbed) -> None:
    """After `stop` no task runs and no connection is open but those of the pool; `get` is right, without level 1.

    Starting twice is starting once, and stopping twice is no mistake; after ten starts there is no more than after one.

    Look: who ends what `start` has begun, and where the connection goes that it listened on.
    """
    shop = await Shop.opened(testbed)
    one, other = await testbed.processes(2, "catalog")
    way = await testbed.proxy(shop.redis)
    writer, cache = await shop.started(one), await shop.cache(other, way)
    shop.write("hat", "hat-0")
    shop.write("pen", "pen-0")
    await cache.stop()
    await shop.learn(cache, "hat", "pen")
    tasks, open_before = await other.tasks(), way.proxy.counts.open

    for number in range(1, 11):
        await cache.start()
        await cache.start()
        await shop.level_1(cache, way, "hat")
        await cache.stop()
        shop.write("hat", f"hat-{number}")
        await writer.invalidate("hat")
        await shop.gives(cache, "hat", "the instance was stopped before it was invalidated")
        assert await shop.asks(cache, way, "hat"), "the instance is stopped, and a get did not ask Redis"
    await cache.stop()

    left = [task for task in await other.tasks() if task not in tasks]
    assert not left, f"after `stop` {len(left)} tasks run that did not before `start`: {', '.join(left[:3])}"

    async def listening() -> int:
        clients = await shop.redis.truth.client_list()
        return sum(each["sub"] != "0" or each["psub"] != "0" or "t" in each["flags"] for each in clients)

    end = testbed.history.now() + 2.0 * testbed.patience  # for the sockets to be closed at both ends
    while (await listening() > 1 or way.proxy.counts.open > open_before + 3) and testbed.history.now() < end:
        await at(testbed, testbed.history.now() + 0.002)
    assert await listening() <= 1, f"{await listening()} connections listen, and only one instance is started"
    opened = way.proxy.counts.open
    assert opened <= open_before + 3, f"{open_before} connections were open before ten starts and stops, {opened} after"
