"""The edge sweep: every edge is met once, at each the world is as it must be there, and none is left out."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from faultline.testbed import Broken, Edge, Note, ProcessDied, RedisServer, Testbed, TestbedError, Vacuous

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

MOVES = """
    import psycopg

    class Redises:
        def __init__(self, redis):
            self.redis = redis

        async def two_steps(self):
            await self.redis.decr("a")
            await self.redis.incr("b")

        async def one_step(self):
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.decr("a")
                pipe.incr("b")
                await pipe.execute()

        async def nothing(self):
            pass

        async def forever(self):
            while True:
                await self.redis.get("a")

        async def random_keys(self):
            import secrets
            await self.redis.set(secrets.token_hex(), 1)
            await self.redis.delete("none")

        async def burst(self):
            import asyncio
            await asyncio.gather(*(self.redis.set(f"key-{number}", 1) for number in range(20)))

    class Postgres:
        def __init__(self, dsn):
            self.dsn = dsn

        async def two_steps(self):
            async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
                await connection.execute("UPDATE stock SET units = units - %s WHERE sku = 'a'", (1,))
                await connection.execute("UPDATE stock SET units = units + %s WHERE sku = 'b'", (1,))

        async def one_step(self):
            async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
                await connection.execute("UPDATE stock SET units = units - %s WHERE sku = 'a'", (1,))
                await connection.execute("UPDATE stock SET units = units + %s WHERE sku = 'b'", (1,))

    class Flusher:
        def __init__(self, redis, db):
            self.redis, self.db = redis, db

        async def flush(self):
            price = await self.redis.lpop("queue")
            await self.db.set_price(int(price))
"""


async def test_every_edge_of_two_steps_is_met_and_only_those_between_them_lose_something(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        redis = await testbed.redis()
        way = await testbed.proxy(redis)
        met = list[tuple[str, tuple[int, int]]]()

        async for edge in testbed.edges(way):
            await redis.truth.mset({"a": 5, "b": 0})
            shop = await testbed.process(f"shop-{edge.number}")
            mover = await shop.new("Redises", way.at())
            async with edge.kills(shop):
                await mover.two_steps()
            left = [int(number or 0) for number in await redis.truth.mget("a", "b")]
            met.append((str(edge).replace(redis.name, "redis"), (left[0], left[1])))

        decrement, increment = "DECRBY no. 1 on redis (DECRBY a 1)", "INCRBY no. 1 on redis (INCRBY b 1)"
        assert met == [
            (f"edge 1: killed before {decrement} was executed", (5, 0)),
            (f"edge 2: killed after {decrement} had been executed, before its answer arrived", (4, 0)),
            (f"edge 3: killed after the answer to {decrement} had arrived", (4, 0)),
            (f"edge 4: killed before {increment} was executed", (4, 0)),
            (f"edge 5: killed after {increment} had been executed, before its answer arrived", (4, 1)),
            (f"edge 6: killed after the answer to {increment} had arrived", (4, 1)),
            ("edge 7: killed nowhere", (4, 1)),
        ]
        notes = [entry.text for entry in testbed.history.entries if isinstance(entry, Note) and "shop" in entry.lane]
        assert len(notes) == 6
        assert notes[0] == "killed before DECRBY no. 1 on redis-1 (DECRBY a 1) was executed"
        testbed.prove_faults()


LOST = r"a unit was lost: edge 2: killed after (DECRBY|UPDATE) no. 1 on .* had been executed"


async def test_what_is_atomic_in_redis_passes_and_what_is_not_fails(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        redis = await testbed.redis()
        way = await testbed.proxy(redis)

        async def sweep(work: str) -> int:
            kills = 0
            async for edge in testbed.edges(way):
                await redis.truth.mset({"a": 5, "b": 0})
                shop = await testbed.process(f"{work}-{edge.number}")
                mover = await shop.new("Redises", way.at())
                async with edge.kills(shop):
                    await getattr(mover, work)()
                kills += edge.hit
                assert await units(redis) == 5, f"a unit was lost: {edge}"
            return kills

        assert await sweep("one_step") == 12, "MULTI, DECR, INCR, EXEC: three edges each"
        with pytest.raises(AssertionError, match=LOST):
            await sweep("two_steps")


async def test_what_is_atomic_in_postgres_passes_and_what_is_not_fails(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        db = await testbed.postgres()
        await db.script("CREATE TABLE stock (sku text PRIMARY KEY, units int)")
        way = await testbed.proxy(db)

        async def sweep(work: str) -> int:
            kills = 0
            async for edge in testbed.edges(way):
                await db.script("TRUNCATE stock; INSERT INTO stock VALUES ('a', 5), ('b', 0)")
                shop = await testbed.process(f"{work}-{edge.number}")
                mover = await shop.new("Postgres", way.at())
                async with edge.kills(shop):
                    await getattr(mover, work)()
                kills += edge.hit
                assert await db.truth("SELECT sum(units)::int FROM stock") == [(5,)], f"a unit was lost: {edge}"
            return kills

        assert await sweep("one_step") == 12, "BEGIN, UPDATE, UPDATE, COMMIT: three edges each"
        with pytest.raises(AssertionError, match=LOST):
            await sweep("two_steps")


async def test_nothing_that_the_dead_process_still_says_gets_through(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        redis = await testbed.redis()
        way = await testbed.proxy(redis)
        async for edge in testbed.edges(way):
            shop = await testbed.process("shop")
            mover = await shop.new("Redises", way.at())
            async with edge.kills(shop):
                await mover.burst()
            assert await redis.truth.dbsize() == 0, f"what came after the first request was executed; {edge}"
            break
        testbed.prove_faults()


async def test_callbacks_have_edges_too(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        redis = await testbed.redis()
        way = await testbed.proxy(redis)
        prices = list[int]()
        db = testbed.interface(set_price=prices.append)
        seen = list[tuple[str, int, int]]()

        async for edge in testbed.edges(way, db.set_price):
            prices.clear()
            await redis.truth.delete("queue")
            await redis.truth.rpush("queue", 5)
            shop = await testbed.process(f"shop-{edge.number}")
            flusher = await shop.new("Flusher", way.at(), db)
            async with edge.kills(shop):
                await flusher.flush()
            place = "none" if edge.target is None else f"{edge.target.verb} {edge.target.phase.name}"
            seen.append((place, await redis.truth.llen("queue"), len(prices)))

        assert seen == [
            ("LPOP BEFORE", 1, 0),
            ("LPOP EXECUTED", 0, 0),
            ("LPOP ANSWERED", 0, 0),
            ("set_price BEFORE", 0, 0),
            ("set_price EXECUTED", 0, 1),
            ("set_price ANSWERED", 0, 1),
            ("none", 0, 1),
        ]


async def test_keys_by_chance_make_no_new_edges(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        redis = await testbed.redis()
        way = await testbed.proxy(redis)
        edges = [edge async for edge in run(testbed, way, "random_keys")]
        assert len(edges) == 7


async def test_work_that_sends_nothing_proves_nothing(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        way = await testbed.proxy(await testbed.redis())
        edges = [edge async for edge in run(testbed, way, "nothing")]
        assert [edge.hit for edge in edges] == [False]
        with pytest.raises(Vacuous, match="the fault 'kill at an edge' never hit"):
            testbed.prove_faults()


async def test_work_without_end_and_a_run_without_a_victim_are_errors_of_ours(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        way = await testbed.proxy(await testbed.redis())
        with pytest.raises(TestbedError, match="more than 5 edges"):
            async for _ in run(testbed, way, "forever", at_most=5):
                pass
        with pytest.raises(TestbedError, match="edge 1 was given no process to kill"):
            async for _ in testbed.edges(way):
                pass


async def test_a_process_that_dies_by_itself_is_the_learners(on_testbed: OnTestbed) -> None:
    async with on_testbed("import os\ndef leave():\n        os._exit(3)\n") as testbed:
        way = await testbed.proxy(await testbed.redis())

        async def sweep() -> None:
            async for edge in testbed.edges(way):
                shop = await testbed.process("shop")
                async with edge.kills(shop):
                    await shop.request(None, "leave", (), {})

        with pytest.raises(ProcessDied, match="exit code 3"):
            await sweep()


async def test_a_death_among_several_calls_is_one_death_and_another_failure_counts(on_testbed: OnTestbed) -> None:
    async with on_testbed(MOVES) as testbed:
        redis = await testbed.redis()
        way = await testbed.proxy(redis)
        async for edge in testbed.edges(way):
            await redis.truth.mset({"a": 5, "b": 0})
            shop = await testbed.process(f"shop-{edge.number}")
            mover = await shop.new("Redises", way.at())
            async with edge.kills(shop), asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(mover.one_step())
            assert await units(redis) == 5

        async def sweep() -> None:
            async for edge in testbed.edges(way):
                shop = await testbed.process("other")
                mover = await shop.new("Redises", way.at())
                async with edge.kills(shop), asyncio.TaskGroup() as group:
                    group.create_task(mover.one_step())
                    group.create_task(fail(edge))

        with pytest.raises(ExceptionGroup, match="unhandled"):
            await sweep()


async def units(redis: RedisServer) -> int:
    return sum(int(number or 0) for number in await redis.truth.mget("a", "b"))


async def fail(edge: Edge) -> None:
    while not edge.hit:  # noqa: ASYNC110 -- no event for it
        await asyncio.sleep(0.001)
    raise Broken("something else")


async def run(testbed: Testbed, way: object, work: str, at_most: int = 200):  # type: ignore[no-untyped-def]
    async for edge in testbed.edges(way, at_most=at_most):  # type: ignore[arg-type]
        shop = await testbed.process(f"shop-{edge.number}")
        mover = await shop.new("Redises", way.at())  # type: ignore[attr-defined]
        async with edge.kills(shop):
            await getattr(mover, work)()
        yield edge
