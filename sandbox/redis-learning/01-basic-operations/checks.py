"""The grader of redis/01: what a cart promises to several tabs at once."""

import asyncio
from collections.abc import Awaitable, Callable

from faultline.testbed import (
    Age,
    Broken,
    Direction,
    LearnerProcess,
    ProcessDied,
    ProxiedRedis,
    Raised,
    RedisServer,
    Remote,
    Reset,
    Testbed,
    Vacuous,
    conservation,
)

THIRTY_DAYS = 2_592_000  # seconds
SOON = 1_000  # seconds that are left of a cart, put there to see who moves them
Change = Callable[[], Awaitable[object]]


async def cart(shop: LearnerProcess, server: RedisServer | ProxiedRedis, user_id: str = "ann") -> Remote:
    """The learner's cart in that process."""
    return await shop.new("Cart", server.at(), user_id)


async def requests_of(way: ProxiedRedis, change: Change) -> int:
    """How many requests the change sends."""
    before = way.requests
    await change()
    if way.requests == before:
        raise Vacuous("it sent no request through the proxy: nothing could be counted or held back")
    return way.requests - before


# -- the contract ------------------------------------------------------------------------------------------------


async def test_holds_what_was_put_in(testbed: Testbed) -> None:
    """What is put in is there, what is taken is not, and an empty cart leaves nothing behind.

    Look: the docstrings of `add`, `remove` and `items` in the starter.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    mine = await cart(shop, redis)

    assert await mine.items() == {}, "a new cart is not empty"
    assert await mine.add("shoe", 2) == 2, "2 were added to nothing, and add did not say 2"
    assert await mine.add("shoe") == 3, "1 was added to 2, and add did not say 3"
    assert await mine.add("hat", 1_000) == 1_000, "1,000 were added to nothing, and add did not say 1,000"
    await holds(mine, {"shoe": 3, "hat": 1_000}, "after adding 2 and 1 shoes and 1,000 hats")

    assert await mine.add("hat") == 1_001, "1 was added to 1,000, and add did not say 1,001"
    assert await mine.remove("hat", 1) == 1_000, "1 of 1,001 was removed, and remove did not say 1,000"

    assert await mine.remove("shoe", 2) == 1, "2 of 3 were removed, and remove did not say 1"
    assert await mine.remove("sock") == 0, "a line that was not there was removed, and remove did not say 0"
    assert await mine.remove("sock", 1) == 0, "1 of a line that was not there was removed, and remove did not say 0"
    await holds(mine, {"shoe": 1, "hat": 1_000}, "after removing 2 of 3 shoes, and socks that were not there")
    assert await mine.remove("shoe", 5) == 0, "5 of 1 were removed, and remove did not say 0"
    await holds(mine, {"hat": 1_000}, "after removing 5 of 1 shoes")
    assert await mine.remove("hat") == 0, "a whole line was removed, and remove did not say 0"
    await holds(mine, {}, "after removing the last line")

    left = await redis.truth.keys()
    assert not left, f"the cart is empty, and the server still keeps {left}"


async def holds(whose: Remote, lines: dict[str, int], when: str) -> None:
    """The cart has these lines and no other."""
    seen = await whose.items()
    assert seen == lines, f"{when} the cart holds {seen}; promised is {lines}"


async def test_refuses_nonsense(testbed: Testbed) -> None:
    """An empty name, and a quantity that is no whole number from 1 to 1,000, are refused and change nothing.

    Look: `Cart.add` in the starter; what `isinstance(True, int)` says.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    mine = await cart(shop, redis)
    await mine.add("shoe", 3)

    for quantity in (0, -1, 1_001, 10**20, True, 1.5, "2"):
        for call, name in ((mine.add, "add"), (mine.remove, "remove")):
            await refused(testbed, call("shoe", quantity), f"{name}('shoe', {quantity!r})")
    await refused(testbed, mine.add("", 1), "add('', 1)")
    await refused(testbed, mine.remove(""), "remove('')")
    await refused(testbed, shop.new("Cart", redis.at(), ""), "Cart(redis, '')")

    await holds(mine, {"shoe": 3}, "after calls that were to be refused")


async def refused(testbed: Testbed, call: Awaitable[object], what: str) -> None:
    """The call must raise `ValueError`."""
    try:
        with testbed.raises("ValueError"):
            await call
    except Broken as error:
        raise Broken(f"{what}: {error}", error.witness) from error


async def test_carts_do_not_meet(testbed: Testbed) -> None:
    """The cart of one user is nothing to another, whatever ids and SKUs look like.

    Look: what your keys and fields are called, and what else could be called so.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    skus = ["shoe", "shoe:1", "größe 42", "gro\u0308ße 42", "*", "{a}", "a b", " ", "0", "Shoe", "shoe "]
    first = await cart(shop, redis)
    for count, sku in enumerate(skus, start=1):
        await first.add(sku, count)
    lines = {sku: count for count, sku in enumerate(skus, start=1)}
    await holds(first, lines, "after adding SKUs with odd letters")

    names = {text(key) for key in await redis.truth.keys()}
    ends = {name.partition("ann")[2] for name in names if "ann" in name}
    tidied = ["Ann", "ann ", "\uff41\uff4e\uff4e"]  # each is ann to whoever tidies up: case, spaces, NFKC
    for user_id in ["bob", "ann:shoe", "ann:", "an", "*", *tidied, *(f"ann{end}" for end in ends if end)]:
        other = await cart(shop, redis, user_id)
        await holds(other, {}, f"ann has a cart, {user_id!r} has none, and")
        await other.add("1", 7)
        await holds(other, {"1": 7}, f"after {user_id!r} has added 7 of '1'")
        await holds(first, lines, f"after {user_id!r} has added 7 of '1', ann has added nothing, and")
        await other.remove("1")
    await holds(first, lines, "when all others have emptied theirs")


# -- many at once ------------------------------------------------------------------------------------------------


async def test_no_click_is_lost(testbed: Testbed) -> None:
    """Of 200 clicks on one product, in 4 processes at the same time, every one counts.

    Look: what can happen between reading the cart and writing it.
    """
    redis = await testbed.redis()
    shops = await testbed.processes(4, "shop")
    carts = [await cart(shop, redis) for shop in shops]

    told = await asyncio.gather(*(each.add("shoe") for each in carts * 50))

    await holds(carts[0], {"shoe": 200}, "after 200 clicks of 1 shoe each")
    twice = sorted({quantity for quantity in told if told.count(quantity) > 1})
    assert not twice, f"two clicks were told the same quantity: {twice[:5]}"


async def test_both_of_two_changes_count(testbed: Testbed) -> None:
    """A change that comes while another is under way is not undone by it, however the network delays its parts.

    Each request of a change in turn is held back until another process has added 3 more.

    Look: which of your calls read first and write then.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    slow, quick = await cart(here, way), await cart(there, redis)

    async def fresh() -> None:
        await quick.remove("shoe")
        await quick.add("shoe", 2)

    changes: list[tuple[str, Change, int]] = [
        ("add('shoe', 4)", lambda: slow.add("shoe", 4), 9),
        ("remove('shoe', 1)", lambda: slow.remove("shoe", 1), 4),
        ("remove('shoe', 2)", lambda: slow.remove("shoe", 2), 3),
    ]
    for what, change, promised in changes:
        await fresh()
        await change()  # what is needed once is there from now on
        await fresh()
        for position in range(1, await requests_of(way, change) + 1):
            await fresh()
            hold = way.proxy.hold(lambda _: True, skip=position - 1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(outcome(change()))
                await hold.reached(5.0)
                testbed.history.note("network", f"request {position} of {what} is held back")
                await quick.add("shoe", 3)
                hold.release()
                testbed.history.note("network", "and goes on")
            seen = (await quick.items()).get("shoe", 0)
            assert seen == promised, (
                f"of 2 shoes, {what} in one process and add('shoe', 3) in another, which came before request "
                f"{position} of it, left {seen}; promised are {promised}"
            )


async def outcome(call: Awaitable[object]) -> object:
    """What became of a call that is disturbed."""
    try:
        return await call
    except (ProcessDied, Raised) as error:
        return error


async def test_a_lost_answer_counts_once(testbed: Testbed) -> None:
    """A change whose answer gets lost is made once, and not once more.

    The connection is reset when the server has made the change and before its answer arrives; a new one works.

    Look: what is sent again when no answer came, by you or by what you use.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    mine, watched = await cart(here, way), await cart(there, redis)
    await mine.add("shoe", 20)
    await mine.remove("shoe", 1)

    for what, change, promised in (
        ("add('shoe', 4)", lambda: mine.add("shoe", 4), 23),
        ("remove('shoe', 3)", lambda: mine.remove("shoe", 3), 20),
    ):
        lost = testbed.inject(way, Reset(after=0, ages=frozenset({Age.OPEN})), Direction.TO_CLIENT)
        await outcome(change())
        way.proxy.remove(lost)
        await holds(watched, {"shoe": promised}, f"the answer to {what} got lost, and")
        await mine.items()  # connected again


async def test_no_line_below_one(testbed: Testbed) -> None:
    """Of a line of 30, 100 tries at the same time take exactly 30, and the next click begins at nothing.

    Of a line of 2, four tries whose first requests reach Redis together take exactly 2.

    Look: what is left in the cart when more is taken than there was.
    """
    redis = await testbed.redis()
    shops = await testbed.processes(4, "shop")
    carts = [await cart(shop, redis) for shop in shops]
    await carts[0].add("hat")

    way = await testbed.proxy(redis)
    together = [await cart(shop, way) for shop in shops]
    for each in together:
        await each.add("sock")  # what is needed once is there from now on
    await carts[0].remove("sock")
    await carts[0].add("sock", 2)
    way.proxy.barrier(len(together), lambda _: True)
    testbed.history.note("network", "lets the next four requests through together")
    left = await asyncio.gather(*(each.remove("sock", 1) for each in together))
    assert sorted(left) == [0, 0, 0, 1], f"of 2 socks four tries took 1 each, together, and remove said {left}"
    await holds(carts[0], {"hat": 1}, "of 2 socks four tries took 1 each, together, and")

    await carts[0].add("shoe", 30)
    told = await asyncio.gather(*(each.remove("shoe", 1) for each in carts * 25))

    await holds(carts[0], {"hat": 1}, "of 30 shoes 100 were taken, and")
    below = [quantity for quantity in told if quantity < 0]
    assert not below, f"remove said that {below[0]} are left"
    again = sorted({quantity for quantity in told if quantity and told.count(quantity) > 1})
    assert not again, f"two tries were told that {again[0]} are left after them"
    assert await carts[1].add("shoe", 2) == 2, "the line was gone, 2 were added, and add did not say 2"
    await holds(carts[0], {"hat": 1, "shoe": 2}, "of 30 shoes 100 were taken, then 2 were added, and")


# -- the login ---------------------------------------------------------------------------------------------------


async def test_merge_adds_up_and_empties(testbed: Testbed) -> None:
    """Merging adds the quantities, empties the guest's cart, and changes nothing if there is nothing to merge.

    Look: `Cart.merge_from` in the starter, above all its last two sentences.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    mine, guest, nobody = [await cart(shop, redis, user_id) for user_id in ("ann", "guest-1", "guest-2")]
    await mine.add("shoe", 2)
    await mine.add("hat", 1)
    await guest.add("shoe", 3)
    await guest.add("sock", 4)
    lines = {"shoe": 5, "hat": 1, "sock": 4}

    await mine.merge_from(guest)
    await holds(mine, lines, "after merging 3 shoes and 4 socks into 2 shoes and 1 hat")
    await holds(guest, {}, "after it was merged, the guest's cart is promised to be empty:")
    await mine.merge_from(guest)
    await holds(mine, lines, "after merging a guest's cart that had been merged before")
    await mine.merge_from(nobody)
    await holds(mine, lines, "after merging an empty cart")
    await mine.merge_from(mine)
    await holds(mine, lines, "after merging the cart with itself")
    await mine.merge_from(await cart(shop, redis))
    await holds(mine, lines, "after merging the cart with itself, by another object of the same user,")
    await nobody.merge_from(mine)
    await holds(nobody, lines, "after merging a cart into an empty one")
    await holds(mine, {}, "after it was merged, the cart is promised to be empty:")


async def test_merge_happens_once(testbed: Testbed) -> None:
    """Two processes that merge the same guest's cart at the same time add it once.

    Each request of the one is held back in turn until the other has merged.

    Look: what the second one finds, and when it looked.
    """
    redis = await testbed.redis()
    here, there = await testbed.processes(2, "shop")
    way = await testbed.proxy(redis)
    slow, slow_guest = await cart(here, way), await cart(here, way, "guest")
    quick, quick_guest = await cart(there, redis), await cart(there, redis, "guest")

    async def fresh() -> None:
        await quick.remove("shoe")
        await quick.remove("sock")
        await quick_guest.add("shoe", 3)
        await quick_guest.add("sock", 1)

    for position in range(1, await merge_requests(way, slow, slow_guest, fresh) + 1):
        await fresh()
        hold = way.proxy.hold(lambda _: True, skip=position - 1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outcome(slow.merge_from(slow_guest)))
            await hold.reached(5.0)
            testbed.history.note("network", f"request {position} of shop-1's merge is held back")
            await quick.merge_from(quick_guest)
            hold.release()
            testbed.history.note("network", "and goes on")
        await holds(
            quick, {"shoe": 3, "sock": 1}, f"shop-2 merged the same cart before request {position} of shop-1, and"
        )
        await holds(quick_guest, {}, "after both have merged it, the guest's cart is promised to be empty:")


async def merge_requests(way: ProxiedRedis, mine: Remote, guest: Remote, fresh: Change) -> int:
    """How many requests a merge sends, when what is needed once is there."""
    await fresh()
    await mine.merge_from(guest)
    await fresh()
    return await requests_of(way, lambda: mine.merge_from(guest))


async def test_merge_loses_no_click(testbed: Testbed) -> None:
    """While 10 tabs go on clicking in the guest's cart and in the customer's, merging loses none and doubles none.

    Look: what happens to a click that comes after the guest's cart was read and before it was emptied.
    """
    redis = await testbed.redis()
    shops = await testbed.processes(4, "shop")
    mine = [await cart(shop, redis) for shop in shops]
    guests = [await cart(shop, redis, "guest") for shop in shops]

    async def tab(target: Remote) -> None:
        for _ in range(20):
            await target.add("shoe")

    async def login(mine: Remote, guest: Remote) -> None:
        for _ in range(10):
            await mine.merge_from(guest)

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(tab(guests[number % 4]))
            tasks.create_task(tab(mine[number % 4]))
        for number in (0, 1):
            tasks.create_task(login(mine[number], guests[number]))

    after = {"ann": (await mine[0].items()).get("shoe", 0), "guest": (await guests[0].items()).get("shoe", 0)}
    conservation({"clicks": 200}, after, what="shoes")


async def test_merge_is_one_step(testbed: Testbed) -> None:
    """A process that is killed while it merges has merged everything or nothing.

    It is killed with -9 before each request of the merge has reached the server, and before each answer has come.

    Look: how many steps the server sees.
    """
    redis = await testbed.redis()
    keeper = await testbed.process("shop-1")
    kept, kept_guest = await cart(keeper, redis), await cart(keeper, redis, "guest")
    whole, nothing = ({"shoe": 5, "hat": 1}, {}), ({"shoe": 2}, {"shoe": 3, "hat": 1})

    async def fresh() -> None:
        for line in ("shoe", "hat"):
            await kept.remove(line)
            await kept_guest.remove(line)
        await kept.add("shoe", 2)
        await kept_guest.add("shoe", 3)
        await kept_guest.add("hat", 1)

    requests, position = 1, 0
    while position < requests:
        position += 1
        for when in ("request", "answer"):
            way = await testbed.proxy(redis)
            doomed = await testbed.process(f"shop-{position + 1}-{when}")
            mine, guest = await cart(doomed, way), await cart(doomed, way, "guest")
            requests = await merge_requests(way, mine, guest, fresh)
            await fresh()
            hold = (way.proxy.hold if when == "request" else way.proxy.hold_reply)(lambda _: True, skip=position - 1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(outcome(mine.merge_from(guest)))
                await hold.reached(5.0)
                await doomed.kill()
            seen = (await kept.items(), await kept_guest.items())
            assert seen in (whole, nothing), (
                f"killed before {when} {position} of the merge arrived, it has left {seen[0]} in the customer's cart "
                f"and {seen[1]} in the guest's; promised is all or nothing"
            )


# -- what it costs -----------------------------------------------------------------------------------------------


async def test_one_round_trip(testbed: Testbed) -> None:
    """Every call costs one round trip, also for carts of 50 lines.

    Look: which of your calls ask, wait, and ask again.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    way = await testbed.proxy(redis)
    mine, guest = await cart(shop, way), await cart(shop, way, "guest")

    calls: dict[str, Change] = {
        "add": lambda: mine.add("shoe", 2),
        "remove with a quantity": lambda: mine.remove("shoe", 1),
        "remove": lambda: mine.remove("shoe"),
        "items": mine.items,
        "merge_from": lambda: mine.merge_from(guest),
    }
    for call in calls.values():
        await call()
    for line in range(50):
        await mine.add(f"line-{line}", 2)
        await guest.add(f"line-{line}", 3)
    for what, call in calls.items():
        before = way.proxy.counts
        await call()
        cost = (way.proxy.counts - before).round_trips
        if not cost:
            raise Vacuous(f"{what} went past the proxy: nothing could be counted")
        assert cost == 1, f"{what} cost {cost} round trips; promised is 1"
    merged = await mine.items()
    assert merged == {f"line-{line}": 5 for line in range(50)}, "2 and 3 of each of 50 lines were merged wrongly"


async def test_lives_30_days_from_the_last_change(testbed: Testbed) -> None:
    """Every change gives the cart 30 days from then on, and what changes nothing gives it nothing.

    The clock of the process is two minutes ahead of the server's.

    Look: which of your calls write without setting the expiry, and which set it without writing.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1", clock_offset=120.0)
    mine, guest = await cart(shop, redis), await cart(shop, redis, "guest")

    async def merge_into_nothing() -> None:
        await mine.remove("shoe")
        await mine.remove("hat")
        await guest.add("shoe", 2)
        await grow_old(redis)
        await mine.merge_from(guest)

    async def merge() -> None:
        await guest.add("hat", 2)
        await grow_old(redis)
        await mine.merge_from(guest)

    changes: dict[str, Change] = {
        "the first add": lambda: mine.add("shoe", 5),
        "an add to a line that is there": lambda: mine.add("shoe", 5),
        "an add of another line": lambda: mine.add("hat", 5),
        "taking a part of a line": lambda: mine.remove("shoe", 1),
        "removing one line of two": lambda: mine.remove("hat"),
        "a merge": merge,
        "a merge into an empty cart": merge_into_nothing,
    }
    for what, change in changes.items():
        await grow_old(redis)
        await change()
        for key, left in (await seconds_left(redis)).items():
            assert left >= 0, f"after {what} the key {key!r} never expires; promised are 30 days"
            assert THIRTY_DAYS - 60 <= left <= THIRTY_DAYS, (
                f"after {what} the key {key!r} expires in {left:,} s; promised are {THIRTY_DAYS:,}"
            )

    other = await cart(shop, redis)
    for what, change in {
        "reading": mine.items,
        "removing a line that was not there": lambda: mine.remove("sock"),
        "taking from a line that was not there": lambda: mine.remove("sock", 1),
        "merging an empty cart": lambda: mine.merge_from(guest),
        "merging the cart with itself": lambda: mine.merge_from(mine),
        "merging the cart with itself, by another object,": lambda: mine.merge_from(other),
    }.items():
        await grow_old(redis)
        await change()
        for key, left in (await seconds_left(redis)).items():
            assert left <= SOON, f"{what} has moved the expiry of the key {key!r} to {left:,} s, and changed nothing"


async def test_a_killed_change_has_its_30_days(testbed: Testbed) -> None:
    """A process that is killed while it changes a cart has not changed it, or has given it 30 days.

    It is killed with -9 before and after each request of the change is carried out.

    Look: what the server has done when only the first of your commands has reached it.
    """
    redis = await testbed.redis()
    way = await testbed.proxy(redis)
    keeper = await cart(await testbed.process("shop-0"), redis)

    async for edge in testbed.edges(way):
        await redis.truth.flushall()
        doomed = await testbed.process(f"shop-{edge.number}")
        mine, fresh = await cart(doomed, way), await cart(doomed, way, "fresh")
        await keeper.add("shoe", 5)
        await grow_old(redis)
        async with edge.kills(doomed):
            await mine.remove("shoe", 2)
            await fresh.add("hat")

        left = await seconds_left(redis)
        assert -1 not in left.values(), f"{edge}: it has left the keys {left}; -1 never expires"
        if await keeper.items() != {"shoe": 5}:
            assert max(left.values(), default=0) >= THIRTY_DAYS - 60, (
                f"{edge}: the cart was changed, and its keys expire in {left} s"
            )


async def grow_old(redis: RedisServer) -> None:
    """Most of the time of all carts has gone by."""
    for key in await redis.truth.keys():
        await redis.truth.expire(key, SOON)


async def seconds_left(redis: RedisServer) -> dict[str, int]:
    """When each key expires; -1 for never."""
    keys = await redis.truth.keys()
    if not keys:
        raise Broken("something was put into a cart, and the server has no key")
    return {text(key): await redis.truth.ttl(key) for key in keys}


def text(key: bytes | str) -> str:
    """A key as it can be read."""
    return key.decode(errors="replace") if isinstance(key, bytes) else key
