"""The grader of redis/03: what a price store promises of a cache in front of a database, and of a queue before it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from psycopg.errors import CheckViolation

from faultline.testbed import (
    Broken,
    BudgetMissed,
    Database,
    LearnerProcess,
    ProxiedRedis,
    RedisServer,
    Remote,
    Testbed,
    Throw,
    Vacuous,
)

SHOE, HAT, SOCK, COAT = "shoe", "hat", "sock", "coat"
HIGHEST = 1_000_000  # cents; PostgreSQL itself refuses more, see the table's constraint
LEASE = 60.0  # seconds; longer than any check, where its end is not the subject
TAKEN_UP = 0.5  # seconds after which another flush has what a dead one had taken
SPARE = 1.0  # seconds more for a check to see it

SCHEMA = """
CREATE TABLE price (
    product_id text PRIMARY KEY, cents bigint NOT NULL CHECK (cents <= 1000000), version bigint NOT NULL
);
CREATE TABLE stored (number bigserial, product_id text, cents bigint, version bigint);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO stored (product_id, cents, version) VALUES (NEW.product_id, NEW.cents, NEW.version); RETURN NEW;
END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON price FOR EACH ROW EXECUTE FUNCTION remember();
"""
SET = """
INSERT INTO price VALUES (%s, %s, 1)
ON CONFLICT (product_id) DO UPDATE SET cents = EXCLUDED.cents, version = price.version + 1 RETURNING version
"""
SET_ALL = """
INSERT INTO price SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[])
ON CONFLICT (product_id) DO UPDATE SET cents = EXCLUDED.cents, version = EXCLUDED.version
WHERE price.version < EXCLUDED.version
"""

Statement = Callable[[], Awaitable[Any]]
Step = Callable[[], Coroutine[Any, Any, Any]]


async def undisturbed(statement: Statement) -> Any:
    """As a statement goes when nothing is the matter."""
    return await statement()


async def never_arrives(_: Statement) -> Any:
    """The connection is lost before the database has the statement."""
    raise ConnectionError("the connection to the database was lost")


async def lost_its_answer(statement: Statement) -> Any:
    """The connection is lost after the database has executed the statement."""
    await statement()
    raise ConnectionError("the connection to the database was lost")


class Unasked:
    """A database that nobody has a reason to ask; `db` is what the learner's code gets of it."""

    def __init__(self, testbed: Testbed) -> None:
        self.db = testbed.interface(get_price=self.get_price, set_price=self.set_price, set_prices=self.set_prices)

    async def get_price(self, product_id: str) -> Sequence[int] | None:
        raise ConnectionError(f"the database is not there, and was asked for the price of {product_id!r}")

    async def set_price(self, product_id: str, cents: int) -> int:
        raise ConnectionError(f"the database is not there, and was to store {cents} for {product_id!r}")

    async def set_prices(self, prices: Sequence[Sequence[Any]]) -> None:
        raise ConnectionError(f"the database is not there, and was to store {prices}")

    @property
    def asked(self) -> int:
        """How many calls the learner's code has made."""
        return sum(len(method.calls) for method in self.db.methods.values())


class Table(Unasked):
    """The prices in PostgreSQL.

    `around` is asked to execute each statement that changes prices, and may do something else before it or after.
    """

    def __init__(self, testbed: Testbed, server: Database) -> None:
        super().__init__(testbed)
        self.server = server
        self.around: Callable[[Statement], Awaitable[Any]] = undisturbed

    async def get_price(self, product_id: str) -> Sequence[int] | None:
        wanted(product_id, str)
        rows = await self.server.truth("SELECT cents, version FROM price WHERE product_id = %s", (product_id,))
        return rows[0] if rows else None

    async def set_price(self, product_id: str, cents: int) -> int:
        wanted(product_id, str)
        wanted(cents, int)
        return await self.around(lambda: self.put(product_id, cents))

    async def set_prices(self, prices: Sequence[Sequence[Any]]) -> None:
        for price in prices:
            for value, kind in zip(price, (str, int, int), strict=True):
                wanted(value, kind)
        if not prices:
            raise ValueError("set_prices was called with no price at all")
        if len({price[0] for price in prices}) < len(prices):
            raise ValueError(f"a product is named twice among {prices}")
        await self.around(lambda: self._put_all(prices))

    async def put(self, product_id: str, cents: int) -> int:
        """One price; PostgreSQL refuses what is above the highest."""
        try:
            return (await self.server.truth(SET, (product_id, cents)))[0][0]
        except CheckViolation as error:
            raise Throw("PriceRefused", str(error)) from error

    async def _put_all(self, prices: Sequence[Sequence[Any]]) -> None:
        await self.server.truth(SET_ALL, [list(column) for column in zip(*prices, strict=True)])

    async def prices(self) -> dict[str, int]:
        """What the database holds."""
        return dict(await self.server.truth("SELECT product_id, cents FROM price"))

    async def stored(self, product_id: str) -> list[int]:
        """All prices of the product that the database has ever held, in their order."""
        rows = await self.server.truth("SELECT cents FROM stored WHERE product_id = %s ORDER BY number", (product_id,))
        return [cents for (cents,) in rows]

    async def empty(self) -> None:
        """As on the first day."""
        await self.server.truth("WITH gone AS (DELETE FROM price) DELETE FROM stored")


def wanted(value: object, kind: type) -> None:
    """What is not of this type is refused, as a driver would refuse it."""
    if type(value) is not kind:
        raise TypeError(f"the database wants {kind.__name__} here, not {value!r}")


async def ground(testbed: Testbed, *, durable: bool = False) -> tuple[RedisServer, Table]:
    """A Redis and a PostgreSQL, both empty."""
    redis, server = await asyncio.gather(testbed.redis(durable=durable), testbed.database())
    await server.script(SCHEMA)
    return redis, Table(testbed, server)


async def through(
    process: LearnerProcess, redis: RedisServer | ProxiedRedis, table: Unasked, *, lease: float = LEASE
) -> Remote:
    """The learner's write-through store in that process."""
    return await process.new("WriteThrough", redis.at(), table.db, lease=lease)


async def behind(process: LearnerProcess, redis: RedisServer | ProxiedRedis, table: Unasked) -> Remote:
    """The learner's write-behind queue in that process."""
    return await process.new("WriteBehind", redis.at(), table.db)


async def reads(table: Table, *stores: Remote, product_id: str = SHOE, when: str) -> None:
    """Everybody reads what the database holds, twice: what the first read puts into the cache must be right, too."""
    promised = (await table.prices()).get(product_id)
    for store in (*stores, *stores):
        price = await store.get_price(product_id)
        assert price == promised, f"{when}: a read gives {price!r}, and the database holds {promised!r}"


async def settle(testbed: Testbed, flusher: Remote, table: Table, promised: dict[str, int], *, when: str) -> None:
    """Flush until the database holds these prices."""
    began, empty = testbed.history.now(), 0
    while True:
        empty = 0 if await flusher.flush(100) else empty + 1
        if (held := await table.prices()) == promised:
            return
        took = testbed.history.now() - began
        if empty > 1 and took > (TAKEN_UP + SPARE) * testbed.patience:
            seen = f"{when}: the database holds {held}, and flushing for {took:.1f} s brings nothing more; promised is "
            raise BudgetMissed(f"{seen}{promised}", promise="all queued prices were in the database", took=took)
        if empty:
            await asyncio.sleep(0.01)  # between two looks


async def stored_once_and_in_order(table: Table, product_id: str, written: Sequence[int], *, when: str) -> None:
    """The database has held some of these prices, each of them once at most, in the order of their writing."""
    stored = await table.stored(product_id)
    assert len(set(stored)) == len(stored), (
        f"{when}: {product_id}'s prices were stored in this order: {stored}; promised is each at most once"
    )
    strangers = sorted(set(stored) - set(written))
    assert not strangers, f"{when}: {product_id} was given the prices {list(written)}, and {strangers} were stored"
    places = [written.index(cents) for cents in stored]
    assert places == sorted(places), (
        f"{when}: {product_id}'s prices were written in the order {list(written)} and stored in the order {stored}"
    )


async def held_back(testbed: Testbed, way: ProxiedRedis, position: int, step: Step, meanwhile: Step, what: str) -> Any:
    """What the step gives, whose request of this position waits until `meanwhile` is over."""
    hold = way.proxy.hold(lambda _: True, skip=position - 1)
    async with asyncio.TaskGroup() as tasks:
        stepping = tasks.create_task(step())
        reaching = tasks.create_task(hold.reached(20.0))
        await asyncio.wait((stepping, reaching), return_when=asyncio.FIRST_COMPLETED)
        if reaching.done():
            testbed.history.note("network", f"request {position} of {what} is held back")
        else:
            reaching.cancel()  # it has sent fewer requests than the time before
        await meanwhile()
        hold.release()
        testbed.history.note("network", "and goes on")
    return stepping.result()


async def requests_of(way: ProxiedRedis, step: Step) -> int:
    """How many requests the step sends."""
    before = way.requests
    await step()
    if not (sent := way.requests - before):
        raise Vacuous("no request went through the proxy: nothing can be held back")
    return sent


# -- the contract ------------------------------------------------------------------------------------------------


async def test_writes_through(testbed: Testbed) -> None:
    """A price that was set is in the database and in the cache: reading it, anywhere, asks the database nothing.

    Look: the docstrings of `WriteThrough` in the starter.
    """
    redis, table = await ground(testbed)
    mine, yours = [await through(shop, redis, table) for shop in await testbed.processes(2, "shop")]

    assert await mine.get_price(SHOE) is None, "nobody has set a price, and there is one"
    for cents in (1999, 0, *range(2500, 2510)):  # the database's versions get a second digit meanwhile
        calls = len(table.db.set_price.calls)
        assert await mine.set_price(SHOE, cents) is None, "set_price gives None"
        assert await table.prices() == {SHOE: cents}, f"set_price({SHOE!r}, {cents}) has returned"
        calls = len(table.db.set_price.calls) - calls
        assert calls == 1, f"to set a price, db.set_price was called {calls} times"
        before = table.asked
        for store in (yours, mine):
            price = await store.get_price(SHOE)
            assert price == cents, f"set to {cents}, the price is read as {price!r}"
        assert table.asked == before, "a price had just been set, and reading it asked the database"

    await table.put(HAT, 550)  # before the shop opened
    for nth, store in enumerate((mine, yours, mine)):
        before = table.asked
        assert await store.get_price(HAT) == 550, "a price that only the database knew was read wrongly"
        assert table.asked - before == (nth == 0), f"read {nth + 1} asked the database {table.asked - before} times"


async def test_queues_and_flushes(testbed: Testbed) -> None:
    """Queued prices reach the database when somebody flushes, in batches of the size that was asked for.

    Look: the docstrings of `WriteBehind` in the starter.
    """
    redis, table = await ground(testbed)
    writer, flusher = [await behind(shop, redis, table) for shop in await testbed.processes(2, "shop")]
    promised = {f"product-{number}": number for number in range(25)}

    assert await flusher.flush(10) == 0, "nothing was waiting, and something was flushed"
    for product_id, cents in promised.items():
        assert await writer.set_price(product_id, cents) is None, "set_price gives None"
    assert (await table.prices(), table.asked) == ({}, 0), "nobody has flushed, and the database was asked"

    sizes = [await flusher.flush(10)]
    while sizes[-1] and len(sizes) < 30:
        sizes.append(await flusher.flush(10))
    assert sizes[-1] == 0, f"of 25 queued prices flushes of 10 have stored {sizes}, and so on without an end"
    rows = [len(call.args[0]) for call in table.db.set_prices.calls]
    assert sizes[:-1] == rows, f"flushes said that they stored {sizes[:-1]} rows; the database was handed {rows}"
    assert sum(rows) == 25, f"25 prices of 25 products were queued, and the database was handed {rows} rows"
    assert max(rows) <= 10, f"flushes of at most 10 have handed {rows} rows to the database"
    assert await table.prices() == promised, "the prices were not stored as they were queued"
    before = table.asked
    assert await flusher.flush(10) == 0, "all was stored, and something was flushed"
    assert table.asked == before, "nothing was waiting, and a flush asked the database"

    await writer.set_price("product-7", 0)
    assert await writer.flush(10) == 1, "one price was queued; one row is to be flushed"
    assert await table.prices() == promised | {"product-7": 0}, "a price of 0 was queued and flushed"


async def test_refuses_nonsense(testbed: Testbed) -> None:
    """What is no price is refused with `ValueError`, before anybody is asked.

    Look: what each docstring of the starter says of `ValueError`.
    """
    redis = await testbed.redis()
    shop = await testbed.process("shop-1")
    way, table = await testbed.proxy(redis), Unasked(testbed)
    store, queue = await through(shop, way, table), await behind(shop, way, table)

    for what, call in {
        "WriteThrough.set_price('', 1)": lambda: store.set_price("", 1),
        "WriteThrough.set_price('shoe', -1)": lambda: store.set_price(SHOE, -1),
        "WriteThrough.get_price('')": lambda: store.get_price(""),
        "WriteBehind.set_price('', 1)": lambda: queue.set_price("", 1),
        "WriteBehind.set_price('shoe', -1)": lambda: queue.set_price(SHOE, -1),
        "flush(0)": lambda: queue.flush(0),
        "flush(-1)": lambda: queue.flush(-1),
        "a lease of 0 s": lambda: through(shop, redis, table, lease=0.0),
    }.items():
        try:
            with testbed.raises("ValueError"):
                await call()
        except Broken as error:
            raise Broken(f"{what}: {error}", error.witness) from error
        assert (way.requests, table.asked) == (0, 0), f"{what} was refused after Redis or the database had been asked"
    await through(shop, redis, table, lease=0.01)
    assert await queue.flush(1) == 0, "what was refused has been queued"


async def test_names_do_not_meet(testbed: Testbed) -> None:
    """Products have nothing to do with each other, nor with your keys, even if one is called like a key of yours.

    Look: what your keys are called, and what a product would have to be called to get the same one.
    """
    redis, table = await ground(testbed)
    shop = await testbed.process("shop-1")
    store, queue = await through(shop, redis, table), await behind(shop, redis, table)
    keys = set[str]()

    async def look(statement: Statement) -> Any:
        keys.update(text(key) for key in await redis.truth.keys())
        return await statement()

    table.around = look
    await store.set_price(SHOE, 100)
    for cents in (200, 300):
        await queue.set_price(HAT, cents)
        keys.update(text(key) for key in await redis.truth.keys())
        await queue.flush(10)
    await queue.set_price(HAT, 400)
    table.around = undisturbed
    parts = {key[start:] for key in keys for start in range(len(key)) if start == 0 or not key[start - 1].isalnum()}
    named = {name: number for number, name in enumerate(sorted(parts - {SHOE, HAT, ""}))}

    for name, cents in named.items():
        await store.set_price(name, cents)
        price = await store.get_price(SHOE)
        assert price == 100, f"a product {name!r} was given a price, and {SHOE}'s is {price!r} instead of 100"
    for name, cents in named.items():
        price = await store.get_price(name)
        assert price == cents, f"of the products {list(named)} one, {name!r}, costs {price!r} instead of {cents}"
    promised = {SHOE: 100, HAT: 400} | named
    await settle(testbed, queue, table, promised, when=f"products called {', '.join(named)} were given a price")

    await redis.truth.flushall()
    await table.empty()
    for name, cents in named.items():
        await queue.set_price(name, cents)
    await queue.set_price(HAT, 500)
    await settle(testbed, queue, table, {HAT: 500} | named, when=f"products called {', '.join(named)} were queued")


def text(key: bytes | str) -> str:
    """A key as it can be read."""
    return key.decode(errors="replace") if isinstance(key, bytes) else key


# -- write-through -----------------------------------------------------------------------------------------------


async def test_a_refused_price_is_nowhere(testbed: Testbed) -> None:
    """If the database refuses, `set_price` raises and every read gives the old price, soon from the cache again.

    Look: what has been written, and where, when the database says no.
    """
    redis, table = await ground(testbed)
    mine, yours = [await through(shop, redis, table) for shop in await testbed.processes(2, "shop")]
    await mine.set_price(SHOE, 1999)

    for product_id in (SHOE, HAT):
        with testbed.raises("PriceRefused"):
            await mine.set_price(product_id, HIGHEST + 1)
        await reads(table, yours, mine, product_id=product_id, when=f"the database has refused {product_id}'s price")
    before = table.asked
    await reads(table, yours, mine, when="the database has refused a price")
    assert table.asked == before, "a refused price has changed nothing, and each read since then asks the database"

    await yours.set_price(SHOE, 1500)
    await reads(table, yours, mine, when="a price was refused, and the next one was not")


async def test_an_earlier_write_does_not_come_back(testbed: Testbed) -> None:
    """Of two writes at once, what the database has stored last is read, however late the other one goes on.

    Each request of one write in turn is held back until another process has written the same product.

    Look: what is known of two prices by which you could tell which of them is the newer one.
    """
    redis, table = await ground(testbed)
    way = await testbed.proxy(redis)
    early_shop, late_shop = await testbed.processes(2, "shop")
    early, late = await through(early_shop, way, table), await through(late_shop, redis, table)
    await early.set_price(SHOE, 1)
    requests = await requests_of(way, lambda: early.set_price(SHOE, 2))

    for position in range(1, requests + 1):
        cents = 100 * position
        await held_back(
            testbed,
            way,
            position,
            lambda cents=cents: early.set_price(SHOE, cents),
            lambda cents=cents: late.set_price(SHOE, cents + 50),
            "shop-1's write",
        )
        when = f"shop-2 has written while request {position} of shop-1's write was on its way"
        await reads(table, late, early, when=when)


async def test_a_slow_reader_puts_nothing_back(testbed: Testbed) -> None:
    """A reader that has loaded a price, and is overtaken by a write, does not put the old price into the cache.

    Each request of a read in turn is held back until another process has written the product.

    Look: the time between loading a price and storing it in Redis.
    """
    redis, table = await ground(testbed)
    way = await testbed.proxy(redis)
    slow_shop, quick_shop = await testbed.processes(2, "shop")
    slow, quick = await through(slow_shop, way, table), await through(quick_shop, redis, table)
    products = [f"product-{number}" for number in range(10)]
    for product_id in products:
        await table.put(product_id, 100)  # before the shop opened: nothing of it is in the cache
    await slow.get_price(products[0])
    requests = await requests_of(way, lambda: slow.get_price(products[1]))

    for position, product_id in zip(range(1, requests + 1), products[2:], strict=False):
        price = await held_back(
            testbed,
            way,
            position,
            lambda product_id=product_id: slow.get_price(product_id),
            lambda product_id=product_id: quick.set_price(product_id, 200),
            "shop-1's read",
        )
        assert price in (100, 200), f"while the price went from 100 to 200, {price!r} was read"
        when = f"shop-2 has written while request {position} of shop-1's read was on its way"
        await reads(table, quick, slow, product_id=product_id, when=when)


async def test_redis_dies_after_the_commit(testbed: Testbed) -> None:
    """Redis dies after the database has committed, and comes back with the old price: no read ever gives that.

    Once alone, once with a reader in the middle of the write, and with another write, or a refused one, and a reader.

    Look: what Redis must know before the commit, so that nobody trusts the old price when it comes back.
    """
    redis, table = await ground(testbed, durable=True)
    mine, yours = [await through(shop, redis, table) for shop in await testbed.processes(2, "shop")]

    async def read(product_id: str) -> None:
        before = (await table.prices())[product_id]
        price = await yours.get_price(product_id)
        assert price == before, f"in the middle of a write the database holds {before}, and {price!r} is read"

    async def write_and_read(product_id: str) -> None:
        await yours.set_price(product_id, 150)
        await read(product_id)

    async def be_refused_and_read(product_id: str) -> None:
        with testbed.raises("PriceRefused"):
            await yours.set_price(product_id, HIGHEST + 1)
        await read(product_id)

    async def nothing(_: str) -> None: ...

    for product_id, middle, what in (
        (SHOE, nothing, ""),
        (HAT, read, ", and somebody had read during the write"),
        (SOCK, write_and_read, ", and somebody else had written and read during the write"),
        (COAT, be_refused_and_read, ", and somebody else had been refused and had read during the write"),
    ):
        await mine.set_price(product_id, 100)
        await reads(table, mine, yours, product_id=product_id, when="nothing was the matter")

        async def strike(
            statement: Statement, product_id: str = product_id, middle: Callable[[str], Awaitable[None]] = middle
        ) -> Any:
            table.around = undisturbed
            await middle(product_id)
            version = await statement()
            testbed.history.note(redis.name, "the database has committed")
            await redis.kill()
            return version

        table.around = strike
        await mine.set_price(product_id, 200)
        await reads(table, yours, mine, product_id=product_id, when=f"Redis died after the commit{what}")
        await redis.restart()
        await reads(table, yours, mine, product_id=product_id, when=f"Redis died after the commit{what}, and is back")

    async def die_and_refuse(statement: Statement) -> Any:
        await redis.kill()
        return await statement()

    table.around = die_and_refuse
    with testbed.raises("PriceRefused"):
        await mine.set_price(SHOE, HIGHEST + 1)


async def test_without_redis_nothing_is_written(testbed: Testbed) -> None:
    """Without Redis no price is changed, since the old one could not be taken out of the cache; reading goes on.

    Look: what a write does when its first word to Redis fails.
    """
    redis, table = await ground(testbed, durable=True)
    mine, yours = [await through(shop, redis, table) for shop in await testbed.processes(2, "shop")]
    await mine.set_price(SHOE, 1999)
    await reads(table, mine, yours, when="nothing was the matter")

    await table.put(COAT, 700)
    table.db.get_price.hold()
    reading = asyncio.create_task(mine.get_price(COAT))
    await table.db.get_price.called(len(table.db.get_price.calls) + 1)
    await redis.kill()
    table.db.get_price.release()
    assert await reading == 700, "Redis died while the database was asked for a price, and that was not what was read"

    before = len(table.db.set_price.calls)
    with testbed.raises("RedisError"):
        await mine.set_price(SHOE, 1500)
    assert len(table.db.set_price.calls) == before, "Redis was dead, set_price has raised, and the database was asked"
    await reads(table, mine, yours, when="Redis is dead")
    await redis.restart()
    await reads(table, mine, yours, when="Redis was dead, and is back")

    await mine.set_price(SHOE, 1500)
    await reads(table, mine, yours, when="Redis was dead, is back, and a price was set")


async def test_no_answer_is_not_a_no(testbed: Testbed) -> None:
    """When the database raises anything but a refusal, the change may come later; reads are right before and after.

    A read that needs the database raises what the database does.

    Look: what you do in Redis when `db.set_price` raises, and what that takes for granted.
    """
    redis, table = await ground(testbed)
    mine, yours = [await through(shop, redis, table) for shop in await testbed.processes(2, "shop")]
    for product_id in (SHOE, HAT):
        await mine.set_price(product_id, 100)
        await reads(table, mine, yours, product_id=product_id, when="nothing was the matter")
    late = list[Statement]()
    blind = await through(mine.process, redis, Unasked(testbed))
    assert await blind.get_price(SHOE) == 100, "the database is away, and a price that is in the cache is read wrongly"
    with testbed.raises("ConnectionError"):
        price = await blind.get_price(SOCK)
        raise Broken(f"the database has raised, and a read gave {price!r}")

    async def lose(statement: Statement) -> Any:
        late.append(statement)
        raise ConnectionError("the connection to the database was lost")

    table.around = lose
    with testbed.raises("ConnectionError"):
        await mine.set_price(SHOE, 200)
    await reads(table, yours, mine, when="the database has lost the connection, and has stored nothing yet")
    for statement in late:
        await statement()
        testbed.history.note(table.server.name, "the change that was under way is committed")
    await reads(table, yours, mine, when="the database has lost the connection, and has stored the price after that")

    table.around = undisturbed
    await mine.set_price(SOCK, 100)
    before = table.asked
    await reads(table, yours, product_id=SOCK, when="the end of another product's write is unknown")
    assert table.asked == before, "the end of one product's write is unknown, and reading another asks the database"

    table.around = lost_its_answer
    with testbed.raises("ConnectionError"):
        await mine.set_price(HAT, 200)
    when = "the database has stored the price, and lost the connection before it said so"
    await reads(table, yours, mine, product_id=HAT, when=when)


async def test_a_killed_writer_leaves_no_old_price(testbed: Testbed) -> None:
    """A writer that is killed anywhere in `set_price` leaves a cache from which nobody reads an outdated price.

    It is killed with -9 at every edge of its requests to Redis: so also just before the commit, and just after it.

    Look: what Redis says about the product at the moment of the commit.
    """
    redis, table = await ground(testbed)
    way = await testbed.proxy(redis)
    yours = await through(await testbed.process("shop-1"), redis, table)

    async for edge in testbed.edges(way):
        await redis.truth.flushall()
        await table.empty()
        await yours.set_price(SHOE, 100)
        doomed = await testbed.process(f"doomed-{edge.number}")
        writer = await through(doomed, way, table)
        async with edge.kills(doomed):
            await writer.set_price(SHOE, 200)

        await reads(table, yours, when=f"{edge}")


async def test_a_dead_writer_costs_the_cache_for_a_lease(testbed: Testbed) -> None:
    """After a write whose end nobody knows, the cache helps again a lease later, and does not give the old price.

    Once the writer was killed after the commit, once the database has raised.

    Look: what ends the caution that a write has left in Redis, and what is in the cache then.
    """
    redis, table = await ground(testbed)
    lease = 0.4
    doomed, reader = await testbed.processes(2, "shop")
    mine, yours = await through(doomed, redis, table, lease=lease), await through(reader, redis, table, lease=lease)

    async def killed_its_writer(statement: Statement) -> Any:
        await statement()
        doomed.strike("after the commit")
        await asyncio.Event().wait()

    for product_id in (SHOE, HAT):
        await mine.set_price(product_id, 100)
        await reads(table, yours, product_id=product_id, when="nothing was the matter")
    began = testbed.history.now()
    for product_id, around in ((SHOE, lost_its_answer), (HAT, killed_its_writer)):
        table.around = around
        await asyncio.gather(mine.set_price(product_id, 200), return_exceptions=True)
    await doomed.gone()
    for product_id in (SHOE, HAT):
        await until_cached(testbed, table, yours, began, lease, product_id=product_id)
        when = f"the lease of {lease} s of a write whose end is unknown is over"
        await reads(table, yours, product_id=product_id, when=when)


async def test_each_write_has_its_own_lease(testbed: Testbed) -> None:
    """How long a write whose end nobody knows costs the cache, others who write the same product do not change.

    One process writes again and again, within its lease: the cache helps again all the same. Another write has a long
    lease, and is committed after the lease of a short one is over.

    Look: what the mark of a new write does to the time that an older one has left.
    """
    redis, table = await ground(testbed)
    lease = 0.4
    shop, other = await testbed.processes(2, "shop")
    mine, yours = [await through(each, redis, table, lease=lease) for each in (shop, other)]
    patient = await through(shop, redis, table, lease=LEASE)
    for product_id in (SHOE, HAT):
        await mine.set_price(product_id, 100)
    _, late = await writes_of_unknown_end(testbed, table, patient, [HAT])
    table.around = lost_its_answer
    began = testbed.history.now()
    with testbed.raises("ConnectionError"):
        await mine.set_price(SHOE, 200)
    table.around = undisturbed
    await yours.set_price(HAT, 300)
    short = testbed.history.now()

    await until_cached(testbed, table, mine, began, lease, meanwhile=lambda: yours.set_price(SHOE, 300))

    await after(testbed, short + 1.2 * lease)
    await reads(
        table, mine, yours, product_id=HAT, when="two writes had begun, and the one with the long lease goes on"
    )
    for statement in late:
        await statement()
        testbed.history.note(table.server.name, "the change that was under way is committed")
    when = "a price was committed late, within its own lease, after the shorter one of another write"
    await reads(table, mine, yours, product_id=HAT, when=when)


async def test_a_late_commit_is_seen(testbed: Testbed) -> None:
    """A price that is committed late, within the lease, is read from then on, whoever had read the old one before.

    The connection is lost as a write begins. Just before the lease is over somebody reads, and the commit comes. Each
    request of a read in turn is held back from before the commit until the lease is over.

    Look: how long a mark is kept, and what a reader that asks the database knows of marks, before and after.
    """
    for lease in (1.4, 2.4, 4.4):  # a machine that is late needs a longer one
        if await commits_late(testbed, lease):
            return
    raise Vacuous("the machine is so late that no commit came within its lease")


async def commits_late(testbed: Testbed, lease: float) -> bool:
    """Whether it came to a verdict: the commit within the lease, and no read as long as one."""
    redis, table = await ground(testbed)
    writing, slow_shop, quick_shop = await testbed.processes(3, "shop")
    writer, quick = [await through(shop, redis, table, lease=lease) for shop in (writing, quick_shop)]
    ways = [await testbed.proxy(redis) for _ in range(3)]
    slow = [await through(slow_shop, way, table, lease=lease) for way in ways]
    products = [f"product-{number}" for number in range(1, len(ways) + 1)]
    for store in slow:
        await store.get_price(SOCK)  # its connection is open from now on
    began, late = await writes_of_unknown_end(testbed, table, writer, (*products, SHOE, HAT))
    await after(testbed, began + 0.5 * lease)

    reading = testbed.history.now()
    waiting, over = asyncio.Semaphore(0), asyncio.Event()

    async def wait() -> None:
        waiting.release()
        await over.wait()

    async with asyncio.TaskGroup() as tasks:
        held = [
            tasks.create_task(
                held_back(testbed, way, position, lambda s=store, p=product_id: s.get_price(p), wait, "a read")
            )
            for position, (way, store, product_id) in enumerate(zip(ways, slow, products, strict=True), 1)
        ]
        await asyncio.gather(*(waiting.acquire() for _ in held))
        await after(testbed, began + 0.85 * lease)
        price = await quick.get_price(SHOE)
        await asyncio.gather(*(statement() for statement in late))
        committed = testbed.history.now()
        testbed.history.note(table.server.name, "the changes that were under way are committed")
        if committed - began < lease:
            assert price == 100, f"the database held 100 within the lease, and {price!r} was read"
            when = "a price was committed late, within the lease, and had been read just before"
            await reads(table, quick, writer, product_id=SHOE, when=when)
        await until_cached(testbed, table, quick, began, lease, product_id=HAT)
        over.set()
    if max(committed - began, testbed.history.now() - reading) >= lease:
        return False
    for position, product_id in enumerate(products, 1):
        when = f"a price was committed late, and request {position} of a read was on its way until the lease was over"
        await reads(table, quick, writer, product_id=product_id, when=when)
    return True


async def writes_of_unknown_end(
    testbed: Testbed, table: Table, writer: Remote, products: Sequence[str]
) -> tuple[float, list[Statement]]:
    """When the first of them began, and the statements, which nobody has executed yet: all go from 100 to 200."""
    late = list[Statement]()

    async def lose(statement: Statement) -> Any:
        late.append(statement)
        raise ConnectionError("the connection to the database was lost")

    for product_id in products:
        await writer.set_price(product_id, 100)
    table.around = lose
    began = testbed.history.now()
    for product_id in products:
        with testbed.raises("ConnectionError"):
            await writer.set_price(product_id, 200)
    table.around = undisturbed
    return began, late


async def after(testbed: Testbed, instant: float) -> None:
    """Until then: time itself is what a lease is about."""
    end = instant - testbed.history.now() + 5.0
    await testbed.until(lambda: asyncio.sleep(0, testbed.history.now() >= instant), "time had gone by", deadline=end)


async def until_cached(
    testbed: Testbed,
    table: Table,
    store: Remote,
    began: float,
    lease: float,
    *,
    product_id: str = SHOE,
    meanwhile: Statement | None = None,
) -> None:
    """Read until a read asks the database nothing, each time after `meanwhile`."""
    while True:
        if meanwhile:
            await meanwhile()
        before = table.asked
        await reads(table, store, product_id=product_id, when="the end of a write is unknown")
        if table.asked == before:
            return
        took = testbed.history.now() - began
        if took > (lease + 0.5 + SPARE) * testbed.patience:
            seen = f"{took:.1f} s after a write whose end is unknown, of a lease of {lease} s, reads ask the database"
            seen += ", while others write the same product" if meanwhile else ""
            raise BudgetMissed(seen, promise="reads were served from the cache", took=took)
        await asyncio.sleep(0.01)  # between two looks


# -- write-behind ------------------------------------------------------------------------------------------------


async def test_many_writes_cost_few_statements(testbed: Testbed) -> None:
    """1,000 writes to 10 products cost at most 20 calls of the database, and leave nothing behind that grows.

    Look: what becomes of a queued price when the next one of the same product comes, and of a price that is stored.
    """
    redis, table = await ground(testbed)
    writer, flusher = [await behind(shop, redis, table) for shop in await testbed.processes(2, "shop")]
    for turn in range(100):
        await asyncio.gather(*(writer.set_price(f"product-{number}", 100 * number + turn) for number in range(10)))
        if turn < 50 and turn % 10 == 9:  # the first half is flushed on the way, the second at the end
            await flusher.flush(100)

    flushes = 0
    while await flusher.flush(100) and flushes < 100:
        flushes += 1

    promised = {f"product-{number}": 100 * number + 99 for number in range(10)}
    assert await table.prices() == promised, "the last of 100 prices of each product was not stored"
    assert table.asked <= 20, f"1,000 prices of 10 products cost {table.asked} calls of the database; promised are 20"
    left = sum([await redis.truth.memory_usage(key, samples=0) or 0 for key in await redis.truth.keys()])
    assert left <= 10_000, f"all of 1,000 prices of 10 products are stored, and Redis keeps {left:,} bytes of them"


async def test_one_round_trip(testbed: Testbed) -> None:
    """Queueing a price costs one round trip to Redis, and the database is not asked.

    Look: how many times `WriteBehind.set_price` awaits the server.
    """
    redis = await testbed.redis()
    way, table = await testbed.proxy(redis), Unasked(testbed)
    queue = await behind(await testbed.process("shop-1"), way, table)
    await queue.set_price(HAT, 1)

    for what, cents in (("the first price of a product", 1), ("the next one", 2), ("one more", 3)):
        before = way.proxy.counts
        await queue.set_price(SHOE, cents)
        trips = (way.proxy.counts - before).round_trips
        if not trips:
            raise Vacuous(f"{what} went past the proxy: nothing could be counted")
        assert trips == 1, f"queueing {what} cost {trips} round trips; promised is 1"
    assert table.asked == 0, "prices were queued, and the database was asked"


async def test_the_last_write_wins(testbed: Testbed) -> None:
    """The price that was set last is stored last, also when it was set by a process whose clock is behind.

    The clocks of the two writers are four minutes apart.

    Look: by what two prices of one product are put in order, and whose clock that comes from.
    """
    redis, table = await ground(testbed)
    ahead = await behind(await testbed.process("shop-1", clock_offset=120.0), redis, table)
    back = await behind(await testbed.process("shop-2", clock_offset=-120.0), redis, table)
    written = list(range(100, 112))

    for cents in written[:6]:
        await (ahead, back)[cents % 2].set_price(SHOE, cents)
        await settle(testbed, back, table, {SHOE: cents}, when=f"{cents} was set last, the clocks 240 s apart")
    for cents in written[6:]:
        await (ahead, back)[cents % 2].set_price(SHOE, cents)
    await settle(testbed, ahead, table, {SHOE: written[-1]}, when=f"{written[6:]} were set, the clocks 240 s apart")
    await stored_once_and_in_order(table, SHOE, written, when="with clocks 240 s apart")


async def test_an_empty_redis_is_no_beginning(testbed: Testbed) -> None:
    """A new and empty Redis in front of a database that has prices already: new prices are stored all the same.

    Look: which versions the database has seen before, and with which one your counting begins.
    """
    redis, table = await ground(testbed)
    queue = await behind(await testbed.process("shop-1"), redis, table)
    for cents in range(10):
        await table.put(HAT, cents)  # before the shop opened
    await queue.set_price(HAT, 1500)
    await queue.set_price(SHOE, 1999)
    await settle(testbed, queue, table, {HAT: 1500, SHOE: 1999}, when="the database had 10 prices of the hat before")
    for cents in range(10):
        await queue.set_price(SHOE, cents)
        await settle(testbed, queue, table, {HAT: 1500, SHOE: cents}, when="nothing was the matter")

    await redis.truth.flushall()
    testbed.history.note(redis.name, "wiped, while nothing is waiting")
    await queue.set_price(SHOE, 2500)
    await settle(testbed, queue, table, {HAT: 1500, SHOE: 2500}, when="Redis was wiped while nothing was waiting")


async def test_a_write_during_a_flush_is_kept(testbed: Testbed) -> None:
    """A price that is set while an older one of the same product is being flushed is not lost.

    It is set before each request of the flush to Redis, before the database's statement, and after its commit.

    Look: what exactly is taken out of the queue when the database has committed.
    """
    redis, table = await ground(testbed)
    way = await testbed.proxy(redis)
    flushing, writing = await testbed.processes(2, "shop")
    flusher, writer = await behind(flushing, way, table), await behind(writing, redis, table)
    await writer.set_price(HAT, 1)
    await flusher.flush(10)
    await writer.set_price(HAT, 2)
    requests = await requests_of(way, lambda: flusher.flush(10))
    written = list[int]()

    async def write() -> None:
        written.append(100 + len(written))
        await writer.set_price(SHOE, written[-1])

    async def kept(when: str) -> None:
        await settle(testbed, flusher, table, {HAT: 2, SHOE: written[-1]}, when=when)
        await stored_once_and_in_order(table, SHOE, written, when=when)

    for position in range(1, requests + 1):
        await write()
        await held_back(testbed, way, position, lambda: flusher.flush(10), write, "the flush")
        await kept(f"a price was set while request {position} of a flush was on its way")

    async def write_before(statement: Statement) -> Any:
        table.around = undisturbed
        await write()
        return await statement()

    async def write_after(statement: Statement) -> Any:
        table.around = undisturbed
        answer = await statement()
        await write()
        return answer

    for when, around in {"before": write_before, "after": write_after}.items():
        await write()
        table.around = around
        await flusher.flush(10)
        await kept(f"a price was set just {when} the flush's statement was executed")


async def test_two_flushers_do_not_swap(testbed: Testbed) -> None:
    """Two flush at once, and the one with the older price comes to the database last: the newer price stays.

    Look: how the database is told which of two prices of one product is the newer one.
    """
    redis, table = await ground(testbed)
    shops = await testbed.processes(3, "shop")
    first, second, writer = [await behind(shop, redis, table) for shop in shops]
    await writer.set_price(SHOE, 100)
    await writer.set_price(HAT, 1)
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def late(statement: Statement) -> Any:
        table.around = undisturbed
        taken.set()
        await go_on.wait()
        return await statement()

    table.around = late
    async with asyncio.TaskGroup() as tasks:
        flushing = tasks.create_task(first.flush(100))
        waiting = tasks.create_task(taken.wait())
        await asyncio.wait((flushing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not taken.is_set():
            waiting.cancel()
            raise Broken(f"two prices were waiting, and a flush ended with {flushing.result()!r}")
        testbed.history.note(table.server.name, "shop-1's statement is on its way")
        await writer.set_price(SHOE, 200)
        await settle_one(testbed, second, table, SHOE, 200)
        await writer.set_price(HAT, 2)
        await settle_one(testbed, second, table, HAT, 2)
        await writer.set_price(HAT, 1)  # as once before, and yet another price
        testbed.history.note(table.server.name, "shop-1's statement arrives")
        go_on.set()

    promised = {SHOE: 200, HAT: 1}
    await settle(testbed, second, table, promised, when="a flush came late, after another one with a newer price")
    await stored_once_and_in_order(table, SHOE, (100, 200), when="a flush came late, after one with a newer price")
    await writer.set_price(SHOE, 300)
    await settle(testbed, first, table, promised | {SHOE: 300}, when="after a flush that came late a price was set")


async def settle_one(testbed: Testbed, flusher: Remote, table: Table, product_id: str, cents: int) -> None:
    """Flush until the database holds this price of the product, whatever the others are."""
    began = testbed.history.now()
    while (held := (await table.prices()).get(product_id)) != cents:
        took = testbed.history.now() - began
        if took > (TAKEN_UP + SPARE) * testbed.patience:
            seen = f"another flush stands still, and flushing for {took:.1f} s leaves the price at {held}, not {cents}"
            raise BudgetMissed(seen, promise="a price was flushed while another flush stood still", took=took)
        if not await flusher.flush(100):
            await asyncio.sleep(0.01)  # between two looks


async def test_a_killed_flusher_loses_nothing(testbed: Testbed) -> None:
    """A flusher is killed anywhere: the next one stores what it had taken, nothing twice, the last price last.

    It is killed with -9 at every edge of its requests to Redis: so also just before the commit, and just after it. Its
    clock is two minutes ahead.

    Look: when a price leaves the queue, and what makes storing it a second time harmless.
    """
    redis, table = await ground(testbed)
    way = await testbed.proxy(redis)
    shop = await behind(await testbed.process("shop-1"), redis, table)

    async for edge in testbed.edges(way):
        await redis.truth.flushall()
        await table.empty()
        written = {SHOE: [1, 2], HAT: [101]}
        for product_id, prices in written.items():
            for cents in prices:
                await shop.set_price(product_id, cents)
        doomed = await testbed.process(f"doomed-{edge.number}", clock_offset=120.0)
        flusher = await behind(doomed, way, table)
        async with edge.kills(doomed):
            await flusher.flush(100)

        written[SHOE].append(3)
        await shop.set_price(SHOE, 3)
        promised = {product_id: prices[-1] for product_id, prices in written.items()}
        await settle(testbed, shop, table, promised, when=f"{edge}")
        await shop.flush(100)  # what is stored and not yet taken off the queue
        for product_id, prices in written.items():
            await stored_once_and_in_order(table, product_id, prices, when=f"{edge}")


async def test_a_failed_flush_loses_nothing(testbed: Testbed) -> None:
    """If the database raises, the flush raises, and its prices are stored by the next one: once, whatever had happened.

    Once the statement was never executed, once it was, and only its answer got lost.

    Look: what a flush does to the queue when `db.set_prices` raises.
    """
    redis, table = await ground(testbed)
    queue = await behind(await testbed.process("shop-1"), redis, table)

    for cents, around in ((100, never_arrives), (200, lost_its_answer)):
        await queue.set_price(SHOE, cents)
        table.around = around
        with testbed.raises("ConnectionError"):
            flushed = await queue.flush(10)
            raise Broken(f"the database has raised, and the flush returned {flushed!r}")
        table.around = undisturbed
        await settle(testbed, queue, table, {SHOE: cents}, when="the database had raised, and is well again")
        await queue.flush(10)
        await stored_once_and_in_order(table, SHOE, (100, 200), when="the database had raised, and is well again")


async def test_queued_prices_outlive_redis(testbed: Testbed) -> None:
    """Prices are queued, Redis is killed with -9 and started again, a long time goes by: they are still there.

    Without Redis, `set_price` and `flush` say so.

    Look: where queued prices are, and what could make Redis forget them.
    """
    redis, table = await ground(testbed, durable=True)
    writing, flushing = await testbed.processes(2, "shop")
    writer, flusher = await behind(writing, redis, table), await behind(flushing, redis, table)
    for product_id, cents in ((SHOE, 100), (HAT, 200), (SHOE, 300)):
        await writer.set_price(product_id, cents)

    await redis.kill()
    for what, call in {"set_price": lambda: writer.set_price(SHOE, 400), "flush": lambda: flusher.flush(10)}.items():
        try:
            with testbed.raises("RedisError"):
                await call()
        except Broken as error:
            raise Broken(f"Redis is dead, {what}: {error}", error.witness) from error
    await redis.restart()
    for key in await redis.truth.keys():
        if await redis.truth.pttl(key) >= 0:
            await redis.truth.delete(key)
    testbed.history.note(redis.name, "all that has an expiry has expired")

    await settle(testbed, flusher, table, {SHOE: 300, HAT: 200}, when="Redis was killed and is back")
    await writer.set_price(HAT, 500)
    await settle(testbed, flusher, table, {SHOE: 300, HAT: 500}, when="Redis is back, and a price was set")
    await stored_once_and_in_order(table, SHOE, (100, 300), when="Redis was killed and is back")
