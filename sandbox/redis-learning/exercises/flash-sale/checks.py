"""The grader of redis/flash-sale: a sale on three systems, with workers and a Redis that die at every edge.

The provider and the database are this grader's own, so it knows what really happened there: what was charged and what
is recorded is read from their books, never from what a solution says.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from faultline.testbed import (
    Broken,
    BudgetMissed,
    Callback,
    Interface,
    LearnerProcess,
    PostgresServer,
    ProcessDied,
    ProxiedRedis,
    Raised,
    RedisServer,
    Remote,
    Testbed,
    TestbedError,
    Throw,
    Vacuous,
)

PRICE = 4900
LONG = 30.0  # seconds of a lease that no check outlives
SHORT = 0.15  # of one that a check waits for
At = RedisServer | ProxiedRedis


@dataclass(slots=True)
class Books:
    """The provider and the database of a check, and what they have written down."""

    testbed: Testbed
    declining: frozenset[str] = frozenset()
    stored: Callable[[str, str, str], Awaitable[None]] | None = None  # where orders really go, if not into `orders`
    asked: int = 0  # charges that were let through
    charges: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # by key: buyer, cents, receipt or ""
    orders: dict[str, tuple[str, str]] = field(default_factory=dict)  # by id: buyer, receipt
    trouble: dict[str, list[tuple[str, type[Exception]]]] = field(default_factory=dict)  # by method: when, and what
    gate: asyncio.Event | None = None  # the next charge waits here, and its answer is lost
    payment: Interface = field(init=False)
    database: Interface = field(init=False)

    def __post_init__(self) -> None:
        """What the learner's code is given."""
        self.payment = self.testbed.interface(charge=self.charge)
        self.database = self.testbed.interface(record=self.record)

    @property
    def charging(self) -> Callback:
        """The provider's method."""
        return self.payment.charge

    @property
    def recording(self) -> Callback:
        """The database's method."""
        return self.database.record

    async def charge(self, key: str, buyer: str, cents: int) -> str:
        """Once for each key, whoever asks."""
        assert isinstance(key, str), f"charge was called with the key {key!r}; promised was a text"
        assert type(cents) is int, f"charge was called with {cents!r} cents; promised was an int"
        self.asked += 1
        await self._fails("charge", "before")
        if key not in self.charges:
            self.charges[key] = (buyer, cents, "" if buyer in self.declining else f"receipt {len(self.charges) + 1}")
        await self._fails("charge", "after")
        if gate := self.gate:
            self.gate = None
            await gate.wait()
            raise ConnectionError("no answer")
        if receipt := self.charges[key][2]:
            return receipt
        raise Throw("Declined", f"the card of {buyer} was refused")

    async def record(self, order: str, buyer: str, receipt: str) -> None:
        """Once for each id."""
        assert isinstance(order, str), f"record was called with the id {order!r}; promised was a text"
        await self._fails("record", "before")
        if self.stored:
            await self.stored(order, buyer, receipt)
        else:
            self.orders.setdefault(order, (buyer, receipt))
        await self._fails("record", "after")

    async def _fails(self, method: str, when: str) -> None:
        planned = self.trouble.get(method, [])
        if planned and planned[0][0] == when:
            raise planned.pop(0)[1]("no answer")

    def show(self, sold: Sequence[str], *, of: int, when: str = "") -> None:
        """These, and nobody else, were charged once and have their order."""
        where = f"{when}: " if when else ""
        paid = Counter(buyer for buyer, _, receipt in self.charges.values() if receipt)
        ordered = Counter(buyer for buyer, _ in self.orders.values())
        for buyer, times in paid.items():
            assert times == 1, f"{where}{buyer} was charged {times} times"
        for buyer, times in ordered.items():
            assert times == 1, f"{where}{buyer} has {times} orders"
        assert len(ordered) <= of, f"{where}{len(ordered)} units were sold of {of}, to {listed(ordered)}"
        for buyer in paid:
            assert buyer in ordered, f"{where}{buyer} was charged, and there is no order"
        receipts = {buyer: receipt for buyer, _, receipt in self.charges.values() if receipt}
        for buyer, receipt in self.orders.values():
            assert buyer in paid, f"{where}{buyer} has an order, and was not charged"
            assert receipt == receipts[buyer], (
                f"{where}the order of {buyer} has {receipt!r}, paid was {receipts[buyer]!r}"
            )
        for buyer, cents, _ in self.charges.values():
            assert cents == PRICE, f"{where}{buyer} was to be charged {cents} cents; the price is {PRICE}"
        left = [buyer for buyer in sold if buyer not in ordered]
        assert not left, f"{where}{listed(left)} came in time, could pay and got no unit; sold was to {listed(ordered)}"
        assert len(ordered) == len(sold), f"{where}{listed(set(ordered) - set(sold))} got a unit, and came too late"


class Stop(Protocol):
    """What a proxy holds back."""

    async def reached(self, timeout: float) -> None:
        """Return when it is there."""

    def release(self) -> None:
        """Let it go on."""


def listed(names: Any) -> str:
    """Some of them."""
    several = sorted(names)
    more = [f"{len(several) - 5} more"] if len(several) > 5 else []
    return ", ".join([*several[:5], *more]) or "nobody"


async def at(
    process: LearnerProcess, redis: At, books: Books, *, sale: str = "lamp", units: int, lease: float = LONG
) -> Remote:
    """The learner's sale in that process."""
    terms = {"sale": sale, "units": units, "price": PRICE, "lease": lease}
    return await process.new("FlashSale", redis.at(), books.payment, books.database, **terms)


async def line(sale: Remote, *buyers: str) -> None:
    """These join, one after the other."""
    for place, buyer in enumerate(buyers, start=1):
        told = await sale.join(buyer)
        assert type(told) is int, f"{buyer} was told the place {told!r}, not an int"
        assert told == place, f"{buyer} was told the place {told}; promised was {place}"


async def stands(sale: Remote, when: str = "", **buyers: str) -> None:
    """Each has this status."""
    for buyer, expected in buyers.items():
        status = await sale.status(buyer)
        where = f"{when}: " if when else ""
        assert status == expected, f"{where}the status of {buyer} is {status!r}; promised was {expected!r}"


async def works(sale: Remote) -> bool:
    """One turn of work, which says True or False."""
    done = await sale.work()
    assert done is True or done is False, f"work gave {done!r}; promised was True or False"
    return done


async def serve(testbed: Testbed, sale: Remote, *buyers: str, when: str = "") -> None:
    """The worker works on until all of these have their final status; a lease may have to run out before."""
    began, within, turns = testbed.history.now(), 2.0 * testbed.patience, 0
    where = f"{when}: " if when else ""
    waiting = list(buyers)
    while True:
        while await works(sale):
            turns += 1
            if turns > 4 * len(buyers):
                raise Broken(f"{where}work said {turns} times that it has served somebody, of {len(buyers)} buyers")
        while waiting and await sale.status(waiting[0]) != "waiting":
            del waiting[0]
        if not waiting:
            return
        if (took := testbed.history.now() - began) > within:
            seen = f"{where}{waiting[0]} still waits after {took:.1f} s, and work finds nobody to take up"
            raise BudgetMissed(seen, promise="everybody was served", took=took)
        await asyncio.sleep(0.005)


async def perhaps(work: Awaitable[Any], *also: str) -> Any:
    """What it gives, if nothing comes in between: the server or the provider may be gone, or raise `also` that."""
    try:
        return await work
    except Raised as error:
        if {"ConnectionError", "TimeoutError", "RedisError", *also} & set(error.bases):
            return error
        raise


async def requests_of(way: ProxiedRedis, call: Callable[[], Awaitable[Any]]) -> int:
    """How many requests one undisturbed call sends."""
    before = way.requests
    await call()
    if sent := way.requests - before:
        return sent
    raise Vacuous("the call sent no request through the proxy: nothing can be held back")


async def stopped(hold: Stop, call: "asyncio.Task[Any]") -> bool:
    """Wait until a request of the call is held; False if it has ended without that one this time."""
    reached = asyncio.create_task(hold.reached(5.0))
    await asyncio.wait([reached, call], return_when=asyncio.FIRST_COMPLETED)
    if call.done() and not reached.done():
        reached.cancel()
        hold.release()
        return False
    await reached
    return True


# -- the contract ------------------------------------------------------------------------------------------------


async def test_sells_in_turn_until_all_is_sold(testbed: Testbed) -> None:
    """A buyer joins, is charged, has an order, and knows it; when all is sold, the others know that.

    Look: the docstrings of `join`, `work` and `status` in the starter.
    """
    redis, books = await testbed.redis(), Books(testbed)
    sale = await at(await testbed.process("till-1"), redis, books, units=2)

    with testbed.within(0.5, "work had seen that nobody is there"):
        assert await works(sale) is False, "nobody has joined, and work said that it has served somebody"
    await line(sale, "ann", "bob", "cyd")
    assert await sale.join("bob") == 2, "bob asked again, and was told another place"
    await stands(sale, "nobody has worked yet", ann="waiting", cyd="waiting")

    assert await works(sale) is True, "ann was next, and work said that there was nobody"
    books.show(["ann"], of=2, when="one turn of work")
    await stands(sale, ann="sold", bob="waiting", cyd="waiting")
    assert await works(sale) is True, "bob was next, and work said that there was nobody"
    books.show(["ann", "bob"], of=2, when="two turns of work")
    await stands(sale, ann="sold", bob="sold", cyd="sold out")
    assert await works(sale) is False, "all is sold, and work said that it has served somebody"
    assert await sale.join("dan") == 4, "who joins when all is sold has a place, too"
    await stands(sale, dan="sold out")
    with testbed.raises("NotInLine"):
        await sale.status("eve")


async def test_refuses_nonsense(testbed: Testbed) -> None:
    """A sale without name, units, price or time, and a buyer without a name, are refused at once.

    Look: the docstrings in the starter, where they say ValueError.
    """
    redis, books = await testbed.redis(), Books(testbed)
    till = await testbed.process("till-1")
    good = {"sale": "lamp", "units": 1, "price": 1, "lease": 0.01}

    for wrong in ({"sale": ""}, {"units": 0}, {"price": 0}, {"lease": 0.009}):
        with testbed.raises("ValueError"):
            await till.new("FlashSale", redis.at(), books.payment, books.database, **{**good, **wrong})
    sale = await till.new("FlashSale", redis.at(), books.payment, books.database, **good)
    for ask in (sale.join, sale.status):
        with testbed.raises("ValueError"):
            await ask("")
    assert await sale.join("ann") == 1, "somebody without a name has got a place"


async def test_a_declined_card_leaves_the_unit_to_the_next(testbed: Testbed) -> None:
    """Who cannot pay is told so, and the unit is for the next; nobody is told "sold out" before it is sold.

    Look: what you count as gone, and what `status` counts.
    """
    redis, books = await testbed.redis(), Books(testbed, declining=frozenset({"ann", "cyd"}))
    sale = await at(await testbed.process("till-1"), redis, books, units=2)
    await line(sale, "ann", "bob", "cyd", "dan", "eve")

    books.charging.hold()
    working = [asyncio.create_task(works(sale)) for _ in range(2)]
    await books.charging.called(2)
    both = "both units are being worked on"
    await stands(sale, both, ann="waiting", bob="waiting", cyd="waiting")
    assert await works(sale) is False, f"{both}, and work took up a third buyer"
    books.charging.release()

    assert [await task for task in working] == [True, True], "a card was declined, and work did not say that it is done"
    await stands(sale, ann="declined", bob="sold", cyd="waiting", dan="waiting")
    assert await works(sale) is True, "ann's unit is for the next, and work said that there was nobody"
    await stands(sale, cyd="declined", dan="waiting", eve="waiting")
    assert await works(sale) is True, "cyd's unit is for the next, and work said that there was nobody"
    await stands(sale, dan="sold", eve="sold out", ann="declined", cyd="declined")
    assert await works(sale) is False, "all is sold, and work said that it has served somebody"
    assert await sale.join("ann") == 1, "ann asked again for her place"
    await stands(sale, "ann has joined again", ann="declined")
    books.show(["bob", "dan"], of=2)


async def test_sold_means_recorded(testbed: Testbed) -> None:
    """Nobody is told "sold" before the order is written, nor recorded before the charge is made.

    Look: which step of `work` is the last.
    """
    redis, books = await testbed.redis(), Books(testbed)
    here, there = await testbed.processes(2, "till")
    mine, yours = await at(here, redis, books, units=1), await at(there, redis, books, units=1)
    await line(mine, "ann", "bob")

    books.charging.hold()
    books.recording.hold()
    working = asyncio.create_task(works(mine))
    await books.charging.called(1)
    await stands(yours, "ann is being charged", ann="waiting", bob="waiting")
    assert not books.recording.calls, "an order was to be written before the charge was made"
    books.charging.release()
    await books.recording.called(1)
    await stands(yours, "the order is not written yet", ann="waiting", bob="waiting")
    books.recording.release()

    assert await working is True
    await stands(yours, ann="sold", bob="sold out")
    books.show(["ann"], of=1)


async def test_what_is_final_stays(testbed: Testbed) -> None:
    """Sold, declined and sold out are told for ever, and a place stays: also when all has expired that expires.

    Every key that would be gone within a year is deleted: that is how Redis looks after that year.

    Look: what you have given an expiry, and whether a status is made of it.
    """
    redis, books = await testbed.redis(), Books(testbed, declining=frozenset({"ann"}))
    sale = await at(await testbed.process("till-1"), redis, books, units=1)
    await line(sale, "ann", "bob", "cyd")
    await serve(testbed, sale, "ann", "bob", "cyd")
    final = {"ann": "declined", "bob": "sold", "cyd": "sold out"}
    await stands(sale, **final)

    expiring = [key for key in await redis.truth.keys() if 0 <= await redis.truth.pttl(key) < 365 * 86_400 * 1000]
    for key in expiring:
        testbed.history.note("network", f"{key!r} expires")
        await redis.truth.delete(key)

    when = f"the sale is over, and {len(expiring)} keys have expired"
    await stands(sale, when, **final)
    places = [await sale.join(buyer) for buyer in ("ann", "bob", "cyd", "dan")]
    assert places == [1, 2, 3, 4], f"{when}; ann, bob, cyd and then dan were told the places {places}"
    assert await works(sale) is False, f"{when}; and work said that it has served somebody"
    books.show(["bob"], of=1, when=when)


async def test_sales_do_not_meet(testbed: Testbed) -> None:
    """Sales are apart, whatever they and their buyers are called; a buyer pays for each.

    Look: what the keys are made of, in Redis and at the provider.
    """
    redis, books = await testbed.redis(), Books(testbed)
    till = await testbed.process("till-1")
    names = [("a", "b:c"), ("a:b", "c"), ("a", "b c"), ("a b", "c"), ("a", 'b", "c'), ('a", "b', "c"), ("a", "c")]
    names += [(f"a{mark}b", "c") for mark in "/-_.|"] + [("a", f"b{mark}c") for mark in "/-_.|"]
    names += [("a", "C"), ("A", "c"), ("a", " c"), ("a", "ç")]
    sales = {sale: await at(till, redis, books, sale=sale, units=99) for sale, _ in names}
    buyers = {sale: [buyer for other, buyer in names if other == sale] for sale in sales}

    for sale, several in buyers.items():
        await line(sales[sale], *several)
    for sale, several in buyers.items():
        for _ in several:
            assert await works(sales[sale]) is True, f"{several} waited in the sale {sale!r}, and work found nobody"

    for sale, buyer in names:
        status = await sales[sale].status(buyer)
        assert status == "sold", f"the status of {buyer!r} in the sale {sale!r} is {status!r}; promised was 'sold'"
    charged, recorded = (Counter(one[0] for one in book.values()) for book in (books.charges, books.orders))
    wanted = Counter(buyer for _, buyer in names)
    free, lost = (listed(repr(buyer) for buyer in (wanted - book).elements()) for book in (charged, recorded))
    assert charged == wanted, f"two purchases have one key at the provider: {free} was not charged again"
    assert recorded == wanted, f"two purchases have one order id: there is no order for {lost}"


# -- at the same time --------------------------------------------------------------------------------------------


async def test_never_more_than_there_are(testbed: Testbed) -> None:
    """15 workers in 3 processes, 12 buyers, 4 units: 4 are being charged at once, each by one worker, and no fifth.

    Look: the step between seeing that a unit is left and taking it.
    """
    redis, books = await testbed.redis(), Books(testbed)
    tills = await testbed.processes(3, "till")
    sales = [await at(till, redis, books, units=4) for till in tills]
    buyers = [f"buyer-{number:02}" for number in range(1, 13)]
    await line(sales[0], *buyers)

    books.charging.hold()
    working = [asyncio.create_task(works(sale)) for sale in sales * 5]
    deadline = testbed.history.now() + 3 * testbed.patience
    while sum(task.done() for task in working) + len(books.charging.calls) < 15:
        if (now := testbed.history.now()) > deadline:
            stuck = 15 - sum(task.done() for task in working) - len(books.charging.calls)
            seen = f"{stuck} workers neither charge nor say that there is nobody; work waits for nobody"
            raise BudgetMissed(seen, promise="every worker knew what to do", took=now)
        await asyncio.sleep(0.002)
    charging = [call.args[1] for call in books.charging.calls]
    assert len(set(charging)) == len(charging), f"two workers have the same buyer: {sorted(charging)}"
    assert len(charging) == 4, f"{len(charging)} buyers are being charged at once, for 4 units"
    for buyer in buyers:
        await stands(sales[1], "all units are being worked on", **{buyer: "waiting"})
    books.charging.release()

    said = Counter([await task for task in working])
    assert said == {True: 4, False: 11}, f"4 of 15 workers had a buyer, and {said[True]} said so"
    books.show(charging, of=4)
    in_turn(buyers, set(charging))
    for buyer in buyers:
        await stands(sales[1], **{buyer: "sold" if buyer in charging else "sold out"})


async def test_two_workers_at_any_interleaving(testbed: Testbed) -> None:
    """Whatever request of one worker is late, and however much another does meanwhile: two units, two buyers.

    Each request of `work` in turn is held back while another process sells all it can.

    Look: what else can happen between two requests of `work`.
    """
    redis, books = await testbed.redis(), Books(testbed)
    early, other = await testbed.processes(2, "till")
    way = await testbed.proxy(redis)
    for name in ("warm", "count"):  # connections and scripts are there from now on
        warm = await at(early, way, books, sale=name, units=1)
        await line(warm, name)
        requests = await requests_of(way, lambda sale=warm: works(sale))
    stops = 0
    testbed.must_hit("request that was held back", lambda: stops)

    for position in range(1, requests + 1):
        books.charges.clear()
        books.orders.clear()
        when = f"request {position} of till-1's work came late"
        mine, yours = [await at(*here, books, sale=when, units=2) for here in ((early, way), (other, redis))]
        await line(yours, "ann", "bob", "cyd")
        hold = way.proxy.hold(lambda _: True, skip=position - 1)
        late = asyncio.create_task(works(mine))
        if not await stopped(hold, late):
            continue
        stops += 1
        testbed.history.note("network", f"request {position} is held back")
        meanwhile = asyncio.create_task(sell_all(yours))
        await asyncio.wait([meanwhile], timeout=0.5)  # it may wait for the other; then that goes on
        hold.release()
        await asyncio.gather(late, meanwhile)
        await serve(testbed, yours, "ann", "bob", "cyd", when=when)
        books.show(["ann", "bob"], of=2, when=when)
        await stands(mine, when, ann="sold", bob="sold", cyd="sold out")


async def sell_all(sale: Remote) -> None:
    """All turns that there are, of three buyers."""
    for _ in range(4):
        if not await works(sale):
            return


async def test_one_place_at_any_interleaving(testbed: Testbed) -> None:
    """Whatever request of a `join` is late while the same buyer and another one join elsewhere: one place for each.

    Look: the step between seeing that a buyer is not in the line and putting them there.
    """
    redis, books = await testbed.redis(), Books(testbed)
    early, other = await testbed.processes(2, "till")
    way = await testbed.proxy(redis)
    warm = await at(early, way, books, sale="warm", units=1)
    await warm.join("ann")
    requests = await requests_of(way, lambda: warm.join("bob"))
    stops = 0
    testbed.must_hit("request that was held back", lambda: stops)

    for position in range(1, requests + 1):
        books.charges.clear()
        books.orders.clear()
        when = f"request {position} of till-1's join came late"
        mine, yours = [await at(*here, books, sale=when, units=9) for here in ((early, way), (other, redis))]
        hold = way.proxy.hold(lambda _: True, skip=position - 1)
        late = asyncio.create_task(mine.join("ann"))
        if not await stopped(hold, late):
            continue
        stops += 1
        meanwhile = asyncio.gather(yours.join("ann"), yours.join("bob"))
        await asyncio.wait([meanwhile], timeout=0.5)
        hold.release()
        here, (there, bob) = await late, await meanwhile
        assert here == there, f"{when}: ann was told the places {here} and {there}"
        assert sorted([here, bob]) == [1, 2], f"{when}: ann was told the place {here}, bob {bob}; promised were 1 and 2"
        await serve(testbed, yours, "ann", "bob", when=when)
        books.show(["ann", "bob"], of=9, when=when)
        assert await yours.join("cyd") == 3, f"{when}: the third was told another place"


async def test_no_answer_is_taken_back(testbed: Testbed) -> None:
    """Whatever request of `status` is late while the last unit is sold: its buyer is never told "sold out".

    Look: from how many moments an answer is put together.
    """
    redis, books = await testbed.redis(), Books(testbed)
    asking, selling = await testbed.processes(2, "till")
    way = await testbed.proxy(redis)
    warm = await at(asking, way, books, sale="warm", units=1)
    await line(warm, "ann")
    await warm.status("ann")
    requests = await requests_of(way, lambda: warm.status("ann"))
    stops = 0
    testbed.must_hit("request that was held back", lambda: stops)

    for position in range(1, requests + 1):
        when = f"request {position} of the question came late"
        mine, yours = [await at(*here, books, sale=when, units=1) for here in ((asking, way), (selling, redis))]
        await line(yours, "ann", "bob")
        for buyer, allowed in (("ann", ("waiting", "sold")), ("bob", ("waiting", "sold out"))):
            hold = way.proxy.hold(lambda _: True, skip=position - 1)
            question = asyncio.create_task(mine.status(buyer))
            stops += await stopped(hold, question)
            assert await works(yours) is (buyer == "ann"), f"{when}: work did not find that one buyer"
            hold.release()
            status = await question
            assert status in allowed, f"{when}: {buyer} was told {status!r} while ann got the last unit"
        await stands(mine, when, ann="sold", bob="sold out")


# -- in turn -----------------------------------------------------------------------------------------------------


def in_turn(joined: Sequence[str], sold: set[str], *, declined: frozenset[str] = frozenset()) -> None:
    """Of buyers who joined one after the other, nobody was passed over by more than a tenth of the line."""
    tenth = len(joined) / 10
    left = [(place, buyer) for place, buyer in enumerate(joined) if buyer not in sold | declined]
    for place, winner in enumerate(joined):
        if winner in sold and left and place - left[0][0] - 1 > tenth:
            raise Broken(
                f"{winner}, no. {place + 1} of {len(joined)} in the line, got a unit, and {left[0][1]}, no. "
                f"{left[0][0] + 1}, got none; more than a tenth of the line is between them"
            )


async def test_first_come_first_served(testbed: Testbed) -> None:
    """30 buyers come to three processes, one after the other; the three units are for the first of them.

    Whoever works: it begins where the last of them have come. The clocks of the three are two minutes apart each.

    Look: in what order `work` takes buyers up, and whose line it looks at.
    """
    redis, books = await testbed.redis(), Books(testbed)
    offsets = (120.0, 0.0, -120.0)
    tills = [await testbed.process(f"till-{number}", clock_offset=by) for number, by in enumerate(offsets, start=1)]
    sales = [await at(till, redis, books, units=3) for till in tills]
    buyers = [f"buyer-{number % 30:02}" for number in range(15, 45)]  # neither the first nor the last by name
    for number, buyer in enumerate(buyers):
        assert await sales[number // 10].join(buyer) == number + 1, f"{buyer} was told another place than {number + 1}"

    for sale in reversed(sales):
        assert await works(sale) is True, "30 buyers wait for three units, and work found nobody in the line"

    sold = {buyer for buyer, _ in books.orders.values()}
    assert len(sold) == 3, f"{len(sold)} units were sold in three turns"
    in_turn(buyers, sold)


# -- what goes wrong ---------------------------------------------------------------------------------------------


async def test_nobody_else_takes_up_a_workers_buyer(testbed: Testbed) -> None:
    """A buyer is its worker's until the lease has run out, and anybody's after that, by a clock that all agree on.

    The wall clocks of the two are four minutes apart, and a second of the server's ends in the middle of the lease.

    Look: who says what time it is, and how exactly.
    """
    redis = await testbed.redis()
    ahead = await testbed.process("till-1", clock_offset=120.0)
    behind = await testbed.process("till-2", clock_offset=-120.0)

    for slow, quick in ((behind, ahead), (ahead, behind)):
        books = Books(testbed)
        name = f"taken by {slow.name}"
        mine, yours = [await at(till, redis, books, sale=name, units=3) for till in (slow, quick)]
        await line(mine, "ann")
        books.charging.hold()
        working = asyncio.create_task(works(mine))
        await books.charging.called(1)
        if await turn_or_charge(yours, books):
            raise Broken(f"{slow.name} was given 30 s for ann, and {quick.name} took her up at once")
        books.charging.release()
        assert await working is True
        books.show(["ann"], of=3)

    books = Books(testbed)
    lease = 0.3
    theirs, ours = [await at(till, redis, books, sale="left", units=3, lease=lease) for till in (ahead, behind)]
    await line(theirs, "ann")
    books.charging.hold()
    await testbed.until(lambda: late_in_a_second(redis), "a second of the server's was nearly over")
    began = testbed.history.now()
    dying = asyncio.create_task(works(theirs))
    await books.charging.called(1)
    await ahead.kill()
    if not isinstance((await asyncio.gather(dying, return_exceptions=True))[0], ProcessDied):
        raise Vacuous("the worker was to die in the middle of its work")
    with testbed.within(0.5, f"the buyer of {ahead.name}, which is dead, was taken up; its lease was {lease} s"):
        while (asked := testbed.history.now()) - began < 2.5 * testbed.patience:
            if await turn_or_charge(ours, books):
                break
            await asyncio.sleep(0.005)
    kept = testbed.history.now() - began
    assert kept > 0.98 * lease, (
        f"ann was taken up again {kept:.3f} s after her worker had begun; it had {lease} s for her"
    )
    again = await turn_or_charge(ours, books)
    if again and testbed.history.now() < asked + 0.98 * lease:  # otherwise the new lease may have run out, too
        raise Broken("a worker has just taken up ann, whose worker was dead, and another one took her up as well")
    books.charging.release()
    await serve(testbed, ours, "ann")
    await stands(ours, ann="sold")
    books.show(["ann"], of=3)


async def late_in_a_second(redis: RedisServer) -> bool:
    """Whether the server's clock is about to go on to the next second."""
    _, microseconds = await redis.truth.time()
    return 800_000 < int(microseconds) < 900_000


async def turn_or_charge(sale: Remote, books: Books) -> bool:
    """Whether this worker takes up somebody, while charges are held."""
    turn = await begun(sale, books)
    return await turn if turn.done() else True


async def begun(sale: Remote, books: Books) -> "asyncio.Task[bool]":
    """A turn of this worker that has come to its end, or to a charge, which is held."""
    before = len(books.charging.calls)
    turn = asyncio.create_task(works(sale))
    charge = asyncio.create_task(books.charging.called(before + 1))
    await asyncio.wait([turn, charge], return_when=asyncio.FIRST_COMPLETED)
    charge.cancel()
    return turn


async def test_every_dead_workers_buyer_is_taken_up(testbed: Testbed) -> None:
    """Two workers die with a buyer each; when both leases have run out, two others take up one each, at once.

    Look: what becomes of the second buyer whose lease is over, when one is taken up.
    """
    redis, books = await testbed.redis(), Books(testbed)
    doomed, alive = await testbed.processes(2, "till")
    lease = 0.5
    theirs, ours = [await at(till, redis, books, units=2, lease=lease) for till in (doomed, alive)]
    await line(theirs, "ann", "bob")
    books.charging.hold()
    dying = [asyncio.create_task(works(theirs)) for _ in range(2)]
    await books.charging.called(2)
    over = testbed.history.now() + lease + 0.05
    await doomed.kill()
    if not all(isinstance(one, ProcessDied) for one in await asyncio.gather(*dying, return_exceptions=True)):
        raise Vacuous("the workers were to die in the middle of their work")
    await testbed.until(lambda: asyncio.sleep(0, testbed.history.now() >= over), "both leases had run out")

    turns = [await begun(ours, books) for _ in range(2)]
    idle = [number for number, turn in enumerate(turns, start=1) if turn.done() and not await turn]
    assert not idle, (
        f"the leases of ann and bob, whose workers are dead, have run out; of two turns of work, no. {idle[0]} found "
        "nobody to take up"
    )
    books.charging.release()
    await asyncio.gather(*turns)
    await serve(testbed, ours, "ann", "bob")
    await stands(ours, ann="sold", bob="sold")
    books.show(["ann", "bob"], of=2)


@dataclass(frozen=True, slots=True)
class Lost:
    """An answer that does not come, so many times."""

    method: str
    when: str
    kind: type[Exception]
    times: int = 1

    def __str__(self) -> str:
        what = {"charge": "the charge", "record": "the order"}[self.method]
        made = "had not been made" if self.when == "before" else "had been made"
        again = f", {self.times} times" if self.times > 1 else ""
        return f"{what} {made} when its answer was lost{again} ({self.kind.__name__})"


LOSSES = (
    Lost("charge", "before", ConnectionError),
    Lost("charge", "after", ConnectionError, times=6),
    Lost("charge", "after", TimeoutError),
    Lost("charge", "after", RuntimeError),
    Lost("record", "before", ConnectionError),
    Lost("record", "after", TimeoutError, times=6),
)


async def test_a_lost_answer_is_no_answer(testbed: Testbed) -> None:
    """The provider or the database gives no answer: neither a no nor a yes. It is tried again, as the same purchase.

    Look: what `work` does with an exception that is not `Declined`.
    """
    redis = await testbed.redis()
    till = await testbed.process("till-1")

    for lost in LOSSES:
        books = Books(testbed, trouble={lost.method: [(lost.when, lost.kind)] * lost.times})
        sale = await at(till, redis, books, sale=str(lost), units=1, lease=0.05)
        await line(sale, "ann", "bob")
        for _ in range(lost.times):
            said = await taken_up(testbed, sale, when=str(lost))
            assert isinstance(said, Raised), f"{lost}, and work said {said}; what is raised reaches the caller"
            await stands(sale, str(lost), ann="waiting", bob="waiting")
        if books.trouble[lost.method]:
            raise Vacuous(f"{lost}: it was not asked so often")
        await serve(testbed, sale, "ann", "bob", when=str(lost))
        await stands(sale, str(lost), ann="sold", bob="sold out")
        books.show(["ann"], of=1, when=str(lost))


async def taken_up(testbed: Testbed, sale: Remote, *, when: str) -> Any:
    """What comes of the next turn that finds somebody; before that a lease may have to run out."""
    began, within = testbed.history.now(), 2.0 * testbed.patience
    while (said := await perhaps(works(sale), "RuntimeError")) is False:
        if (took := testbed.history.now() - began) > within:
            seen = f"{when}: ann still waits after {took:.1f} s, and work finds nobody to take up"
            raise BudgetMissed(seen, promise="the buyer was taken up again", took=took)
        await asyncio.sleep(0.005)
    return said


async def test_a_late_worker_changes_nothing(testbed: Testbed) -> None:
    """A worker that stands still past its lease comes back when its buyer is settled, and the unit counts once.

    It comes back with a receipt, with a refusal, and without an answer.

    Look: what the second end of the same work does to your counts.
    """
    redis = await testbed.redis()
    early, late = await testbed.processes(2, "till")

    for name, declining in (("a receipt", frozenset[str]()), ("a refusal", frozenset({"ann"}))):
        when = f"till-1 came back late, with {name}"
        books = Books(testbed, declining=declining)
        mine, yours = [await at(till, redis, books, sale=name, units=2, lease=SHORT) for till in (early, late)]
        await line(mine, "ann")
        books.charging.hold()
        working = asyncio.create_task(works(mine))
        await books.charging.called(1)
        async with testbed.paused(early):
            books.charging.release()
            await serve(testbed, yours, "ann", when=f"till-1 stands still with {name}")
        await working
        await line(mine, "ann", "bob", "cyd", "dan", "eve")
        sold = ["bob", "cyd"] if declining else ["ann", "bob"]
        await serve(testbed, yours, "ann", "bob", "cyd", "dan", "eve", when=when)
        books.show(sold, of=2, when=when)
        await stands(mine, when, ann="declined" if declining else "sold", bob="sold", dan="sold out", eve="sold out")

    when = "till-1 came back late, without an answer"
    books = Books(testbed, gate=(gate := asyncio.Event()))
    mine, yours = [await at(till, redis, books, sale="no answer", units=2, lease=SHORT) for till in (early, late)]
    await line(mine, "ann")
    working = asyncio.create_task(perhaps(works(mine)))
    await books.charging.called(1)
    await serve(testbed, yours, "ann", when="till-1 waits for the provider")
    gate.set()
    await working
    await stands(yours, when, ann="sold")
    await line(mine, "ann", "bob", "cyd")
    await serve(testbed, yours, "ann", "bob", "cyd", when=when)
    books.show(["ann", "bob"], of=2, when=when)
    await stands(mine, when, ann="sold", bob="sold", cyd="sold out")


async def test_two_are_at_the_same_buyer(testbed: Testbed) -> None:
    """A worker is late, and another has taken up its buyer and is still at it: the first ends its work all the same.

    With a receipt or a refusal it settles the buyer; without an answer it does not take the buyer from the other.

    Look: what a late worker leaves undone, or undoes, since the buyer is not its own any more.
    """
    redis = await testbed.redis()
    tills = await testbed.processes(3, "till")

    for name, status in (("a receipt", "sold"), ("a refusal", "declined")):
        when = f"till-2 had taken up ann, and till-1 came back with {name}"
        books = Books(testbed, frozenset({"ann"} if status == "declined" else ()))
        mine, yours, theirs = [await at(till, redis, books, sale=name, units=2, lease=SHORT) for till in tills]
        await line(mine, "ann")
        books.charging.hold()
        working = asyncio.create_task(works(mine))
        await books.charging.called(1)
        _, taking_over = await taken_over(testbed, yours, books)
        async with testbed.paused(tills[1]):
            books.charging.release()
            assert await working is True, f"{when}; its work said that there was nobody"
            await stands(theirs, when, ann=status)
        await taking_over
        await line(mine, "ann", "bob", "cyd", "dan")
        await serve(testbed, theirs, "ann", "bob", "cyd", "dan", when=when)
        books.show(["ann", "bob"] if status == "sold" else ["bob", "cyd"], of=2, when=when)

    for lease in (0.3, 0.6, 1.2):  # longer ones for a machine that is too slow for short ones
        when = f"till-2 had taken up ann for {lease} s, and till-1, which was late, got no answer"
        books = Books(testbed, gate=(gate := asyncio.Event()))
        mine, yours, theirs = [await at(till, redis, books, sale=when, units=2, lease=lease) for till in tills]
        await line(mine, "ann")
        failing = asyncio.create_task(perhaps(works(mine)))
        await books.charging.called(1)
        books.charging.hold()
        since, taking_over = await taken_over(testbed, yours, books)
        gate.set()
        await failing
        again = await turn_or_charge(theirs, books)
        in_time = testbed.history.now() < since + 0.98 * lease
        books.charging.release()
        await taking_over
        await serve(testbed, yours, "ann", when=when)
        books.show(["ann"], of=2, when=when)
        assert not (again and in_time), f"{when}; then till-3 took her up as well"
        if in_time or not again:
            return
    raise TestbedError("this machine is too slow for a few calls within 1 s; close what you can and check again")


async def taken_over(testbed: Testbed, sale: Remote, books: Books) -> "tuple[float, asyncio.Task[bool]]":
    """A turn that has taken up a buyer whose lease has run out, and when it began; its charge is held."""
    began, within = testbed.history.now(), 2.0 * testbed.patience
    since = began
    while (turn := await begun(sale, books)).done():
        await turn
        if (took := testbed.history.now() - began) > within:
            seen = f"ann's lease has run out, and after {took:.1f} s nobody else can take her up"
            raise BudgetMissed(seen, promise="the buyer was taken up again", took=took)
        await asyncio.sleep(0.005)
        since = testbed.history.now()
    return since, turn


async def test_a_worker_may_die_anywhere(testbed: Testbed) -> None:
    """Killed at any edge of `work`, at Redis, at the provider or at the database: the buyer is served, once.

    Look: what is known, and to whom, when the process ends right here.
    """
    await dies_anywhere(testbed, frozenset(), sold="ann", statuses={"ann": "sold", "bob": "sold out"})


async def test_a_worker_may_die_at_a_refusal(testbed: Testbed) -> None:
    """Killed at any edge of a `work` whose buyer cannot pay: the unit is the next one's, and is sold once.

    Look: what is known, and to whom, when the process ends right here.
    """
    statuses = {"ann": "declined", "bob": "sold", "cyd": "sold out"}
    await dies_anywhere(testbed, frozenset({"ann"}), sold="bob", statuses=statuses)


async def dies_anywhere(testbed: Testbed, declining: frozenset[str], *, sold: str, statuses: dict[str, str]) -> None:
    """One unit, some buyers, and a worker that dies once at each edge of its only turn."""
    redis, books = await testbed.redis(), Books(testbed, declining)
    way = await testbed.proxy(redis)
    survivor = await testbed.process("survivor")

    async for edge in testbed.edges(way, books.charging, books.recording):
        books.charges.clear()
        books.orders.clear()
        doomed = await testbed.process(f"till-{edge.number}")
        name = f"sale {edge.number}"
        theirs, ours = [
            await at(*here, books, sale=name, units=1, lease=0.05) for here in ((doomed, way), (survivor, redis))
        ]
        await line(ours, *statuses)
        async with edge.kills(doomed):
            await works(theirs)
        await serve(testbed, ours, "ann", sold, when=str(edge))
        books.show([sold], of=1, when=str(edge))
        await stands(ours, str(edge), **statuses)


async def test_who_joins_may_die_anywhere(testbed: Testbed) -> None:
    """Killed at any edge of `join`: asked again elsewhere, the buyer has one place, and is served once.

    Look: whether a buyer can have a place and stand in no line, or the other way round.
    """
    redis, books = await testbed.redis(), Books(testbed)
    way = await testbed.proxy(redis)
    survivor = await testbed.process("survivor")

    async for edge in testbed.edges(way):
        books.charges.clear()
        books.orders.clear()
        doomed = await testbed.process(f"till-{edge.number}")
        name = f"sale {edge.number}"
        theirs, ours = [await at(*here, books, sale=name, units=9) for here in ((doomed, way), (survivor, redis))]
        async with edge.kills(doomed):
            await theirs.join("ann")
        places = [await ours.join(buyer) for buyer in ("ann", "bob", "ann")]
        assert places == [1, 2, 1], f"{edge}: ann, bob and ann again were told the places {places}, and not 1, 2, 1"
        await serve(testbed, ours, "ann", "bob", when=str(edge))
        books.show(["ann", "bob"], of=9, when=str(edge))


async def test_redis_may_die_at_any_request(testbed: Testbed) -> None:
    """Redis is killed before and after each request of `join` and `work`, and comes back with what it had answered.

    Look: what is asked again after an exception, and what a restart makes the server forget.
    """
    redis, books = await testbed.redis(durable=True), Books(testbed)
    way = await testbed.proxy(redis)
    early, other = await testbed.processes(2, "till")
    warm = await at(early, way, books, sale="warm", units=2)
    joins = turns = 0
    for name in ("cat", "dog"):  # the first makes connections and loads scripts
        joins = await requests_of(way, lambda name=name: warm.join(name))
    for _ in range(2):
        turns = await requests_of(way, lambda: works(warm))

    moments = [("join", number, "after") for number in range(1, joins + 1)]
    moments += [("work", number, moment) for number in range(1, turns + 1) for moment in ("before", "after")]
    stops = 0
    testbed.must_hit("kill of Redis at a request", lambda: stops)
    for method, number, moment in moments:
        books.charges.clear()
        books.orders.clear()
        when = f"Redis was killed {moment} it had executed request {number} of {method}"
        at_both = ((early, way), (other, redis))
        mine, yours = [await at(*here, books, sale=when, units=1, lease=SHORT) for here in at_both]
        if method == "work":
            await line(mine, "ann", "bob")
        stop = way.proxy.hold if moment == "before" else way.proxy.hold_reply
        hold = stop(lambda _: True, skip=number - 1)
        call = asyncio.create_task(perhaps(mine.join("ann") if method == "join" else works(mine)))
        if not await stopped(hold, call):
            continue
        stops += 1
        await redis.kill()
        await way.proxy.sever()
        hold.release()
        await redis.restart()
        await call
        places = [await perhaps(yours.join("ann")) for _ in range(2)]  # the first may meet a connection that is dead
        assert places[1] == 1, f"{when}: ann asked again, and was told the place {places[1]!r}"
        await line(yours, "ann", "bob")
        await serve(testbed, yours, "ann", "bob", when=when)
        books.show(["ann"], of=1, when=when)
        await stands(yours, when, ann="sold", bob="sold out")


async def test_a_dead_redis_says_nothing(testbed: Testbed) -> None:
    """While Redis is dead, `join`, `status` and `work` raise what the client raises, and nobody is told anything else.

    Look: what your code makes of an error of the client.
    """
    redis, books = await testbed.redis(), Books(testbed)
    sale = await at(await testbed.process("till-1"), redis, books, units=1)
    await line(sale, "ann", "bob")
    await works(sale)
    await stands(sale, ann="sold", bob="sold out")

    await redis.kill()
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "join": lambda: sale.join("cyd"),
        "status": lambda: sale.status("ann"),
        "work": lambda: works(sale),
    }
    for what, call in calls.items():
        try:
            with testbed.raises("ConnectionError"):
                await call()
        except Broken as error:
            raise Broken(f"{what}, with a dead Redis: {error}", error.witness) from error


# -- the sale ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Arrival:
    """One buyer's `join`: when it was called and when it had returned."""

    buyer: str
    called: float
    returned: float
    place: int


async def test_the_sale(testbed: Testbed) -> None:
    """500 buyers, 50 units, 3 processes; a worker dies and Redis is restarted with 12 charges in the air.

    All is sold, in turn and once, and everybody knows.

    Look: the docstring of `work` in the starter, line by line.
    """
    redis, db = await testbed.redis(durable=True), await testbed.postgres()
    await db.script("CREATE TABLE orders (id text PRIMARY KEY, buyer text NOT NULL, receipt text NOT NULL)")
    broke = frozenset(f"buyer-{number:03}" for number in (3, 17, 18, 31, 49))
    books = Books(testbed, broke, stored=lambda *order: recorded(db, books, order))
    tills = await testbed.processes(3, "till")
    sales = [await at(till, redis, books, units=50, lease=0.8) for till in tills]
    arrivals = await arrive(testbed, sales)

    over = asyncio.Event()
    workers = [asyncio.create_task(keep_working(sale, over)) for sale in sales for _ in range(4)]
    try:
        await condition(testbed, lambda: len(books.charging.calls) - books.asked == 12, "12 buyers were being charged")
        await tills[1].kill()
        await redis.kill()
        await redis.restart()
        books.charging.release()
        await condition(testbed, lambda: len(books.orders) >= 50, "50 units were sold", within=4.0)
    finally:
        over.set()
        books.charging.release()
        await asyncio.gather(*workers)
    # Errors of Redis may reach the caller: whatever connection is from before the restart breaks now, if it has to.
    await asyncio.gather(*(perhaps(sale.status("buyer-001")) for sale in (sales[0], sales[2]) for _ in range(100)))
    await serve(testbed, sales[0], *(f"buyer-{number:03}" for number in range(1, 61)))

    rows = await db.truth("SELECT id, buyer, receipt FROM orders")
    assert len(rows) == len({buyer for _, buyer, _ in rows}), "the database has two orders for one buyer"
    books.orders = {order: (buyer, receipt) for order, buyer, receipt in rows}
    sold = {buyer for buyer, _ in books.orders.values()}
    assert len(sold) == 50, f"{len(sold)} units were sold of 50"
    books.show(sorted(sold), of=50)
    fairly(arrivals, sold, broke)
    for first in range(0, 500, 25):
        several = [one.buyer for one in arrivals[first : first + 25]]
        for buyer, status in zip(several, await asyncio.gather(*map(sales[2].status, several)), strict=True):
            expected = "sold" if buyer in sold else "declined" if charged(books, buyer) else "sold out"
            assert status == expected, f"the status of {buyer} is {status!r} in the end; promised was {expected!r}"


async def recorded(db: PostgresServer, books: Books, order: tuple[str, str, str]) -> None:
    """The order is in PostgreSQL; from the 20th on, charges are held: the sale is in its middle."""
    await db.truth("INSERT INTO orders VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", order)
    books.orders.setdefault(order[0], order[1:])
    if len(books.orders) == 20:
        books.charging.hold()


async def arrive(testbed: Testbed, sales: Sequence[Remote]) -> list[Arrival]:
    """500 buyers come in a hundred waves, the first hundred of them all at one process; in a wave nobody is first."""
    arrivals: list[Arrival] = []

    async def join(number: int) -> None:
        buyer = f"buyer-{number:03}"
        called = testbed.history.now()
        place = await sales[0 if number <= 100 else number % 3].join(buyer)
        arrivals.append(Arrival(buyer, called, testbed.history.now(), place))

    for wave in range(1, 501, 5):
        await asyncio.gather(*(join(number) for number in range(wave, wave + 5)))
    places = sorted(one.place for one in arrivals)
    seen = f"500 buyers were told {len(set(places))} places, from {places[0]} to {places[-1]}"
    assert places == list(range(1, 501)), seen
    return arrivals


async def keep_working(sale: Remote, over: asyncio.Event) -> None:
    """A worker of the shop: goes on after a trouble, ends with its process."""
    while not over.is_set():
        try:
            served = await perhaps(works(sale))
        except ProcessDied:
            return
        if served is not True:
            await asyncio.sleep(0.01)


async def condition(testbed: Testbed, holds: Callable[[], bool], what: str, *, within: float = 5.0) -> None:
    """Wait until it holds; a solution that does not get there has missed its time."""
    began = testbed.history.now()
    while not holds():
        if (took := testbed.history.now() - began) > within * testbed.patience:
            raise BudgetMissed(f"waited {took:.1f} s in vain until {what}", promise=what, took=took)
        await asyncio.sleep(0.002)


def charged(books: Books, buyer: str) -> bool:
    """Whether the provider was asked for this buyer."""
    return any(one[0] == buyer for one in books.charges.values())


def fairly(arrivals: Sequence[Arrival], sold: set[str], broke: frozenset[str]) -> None:
    """Nobody who could pay was passed over by one who certainly joined later, by more than a tenth of the line.

    Certainly between the two are those whose `join` was called after the one's had returned, and had returned before
    the other's was called.
    """
    left = [one for one in arrivals if one.buyer not in sold | broke]
    first = min(left, key=lambda one: one.returned)
    for one in arrivals:
        if one.buyer in sold:
            between = sum(first.returned < other.called and other.returned < one.called for other in arrivals)
            if between > len(arrivals) / 10:
                raise Broken(
                    f"{one.buyer} got a unit, and {first.buyer}, who joined earlier, got none; "
                    f"{between} of 500 in the line are between them, more than a tenth"
                )
