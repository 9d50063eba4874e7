"""PostgreSQL on the testbed: its truth, its faults, transactions that are held, replicas that lag."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import psycopg
import pytest

from faultline.testbed import Latency, Testbed, TestbedError, Vacuous, named, saying

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

SHOP = """
    import psycopg

    class Shop:
        def __init__(self, dsn):
            self.dsn = dsn

        async def sell(self, sku):
            async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
                sold = await connection.execute(
                    "UPDATE stock SET units = units - 1 WHERE sku = %s AND units > 0 RETURNING units", (sku,)
                )
                return bool(await sold.fetchone())

        async def look(self, sku):
            async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
                found = await connection.execute("SELECT units FROM stock WHERE sku = %s", (sku,))
                row = await found.fetchone()
                return row and row[0]

        async def advise(self, number):
            async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (number,))
"""
SCHEMA = "CREATE TABLE stock (sku text PRIMARY KEY, units int NOT NULL); INSERT INTO stock VALUES ('hat', 3)"


async def test_the_truth_is_asked_on_a_connection_of_the_graders_own_also_after_a_kill(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        db = await testbed.postgres(config={"max_connections": "23"})
        await db.script(SCHEMA)
        shop = await (await testbed.process("shop")).new("Shop", db.at())
        assert testbed.history.operations("Shop")[0].what == f"Shop(postgres:{db.instance.port})"
        assert await shop.sell("hat") is True
        assert await db.truth("SELECT units FROM stock WHERE sku = %s", ("hat",)) == [(2,)]
        assert await db.truth("SHOW max_connections") == [("23",)]

        await db.kill()
        with pytest.raises(psycopg.OperationalError):
            await db.truth("SELECT 1")
        with testbed.raises("OperationalError"):
            await shop.sell("hat")
        await db.restart()
        assert await db.truth("SELECT units FROM stock") == [(2,)]
        assert await shop.sell("hat") is True

        await db.instance.restart()  # without the testbed's knowledge: the connection is broken when it is used
        with pytest.raises(psycopg.OperationalError):
            await db.truth("SELECT 1")
        assert await db.truth("SELECT units FROM stock") == [(1,)]


async def test_roles_of_the_check_are_refused_what_they_may_not(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        db = await testbed.postgres()
        await db.script(SCHEMA)
        await db.script("CREATE ROLE service LOGIN; GRANT SELECT ON stock TO service")
        way = await testbed.proxy(db)
        shop = await (await testbed.process("shop")).new("Shop", way.at(user="service"))
        assert await shop.look("hat") == 3
        with testbed.raises("InsufficientPrivilege"):
            await shop.sell("hat")


async def test_a_way_counts_holds_and_delays_statements(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        db = await testbed.postgres()
        await db.script(SCHEMA)
        way = await testbed.proxy(db)
        shop = await (await testbed.process("shop")).new("Shop", way.at())
        assert await shop.sell("hat")
        assert way.requests == 3, "BEGIN, UPDATE, COMMIT"

        committed = way.proxy.hold_reply(named("commit"))
        selling = asyncio.create_task(shop.sell("hat"))
        await committed.reached(20)
        assert await db.truth("SELECT units FROM stock") == [(1,)]
        assert not selling.done()
        committed.release()
        assert await selling

        testbed.inject(way, Latency(0.01))
        await shop.look("hat")
        testbed.prove_faults()


async def test_a_held_transaction_makes_others_wait_for_each_other_and_for_it(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        db = await testbed.postgres()
        await db.script(SCHEMA)
        shop = await (await testbed.process("shop")).new("Shop", db.at())

        async with testbed.held_transaction(db, "UPDATE stock SET units = 1 WHERE sku = 'hat'") as held:
            selling = [asyncio.create_task(shop.sell("hat")) for _ in range(5)]
            waiting = await held.blocks(5)
            assert all("UPDATE stock" in waiter.statement for waiter in waiting)
            assert await shop.look("hat") == 3, "readers see what was there before, and do not wait"
            assert await held.execute("SELECT units FROM stock") == [(1,)]
            await held.commit()

        assert sorted(await asyncio.gather(*selling)) == [False, False, False, False, True]
        assert held.most_waiters == 5


async def test_a_held_transaction_that_nobody_waited_for_proves_nothing(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        db = await testbed.postgres()
        await db.script(SCHEMA)
        shop = await (await testbed.process("shop")).new("Shop", db.at())
        async with testbed.held_transaction(db, "SELECT pg_advisory_xact_lock(7)") as held:
            assert await shop.sell("hat")
            assert await held.waiters() == []
            with pytest.raises(Vacuous, match=r"0 of 1 sessions waited for the held transaction within 0\.05 s"):
                await held.blocks(1, within=0.05)
            asked = asyncio.create_task(shop.advise(7))
            await held.blocks(1)
            await held.rollback()
            await asked


async def test_a_held_transaction_ends_with_its_block_and_with_its_server(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        db = await testbed.postgres()
        await db.script(SCHEMA)
        async with testbed.held_transaction(db, "DELETE FROM stock"):
            pass
        assert await db.truth("SELECT units FROM stock") == [(3,)]
        async with testbed.held_transaction(db, "DELETE FROM stock"):
            await db.kill()
        await db.restart()
        assert await db.truth("SELECT units FROM stock") == [(3,)]


async def test_a_lagging_postgres_shows_the_past_until_it_catches_up(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        primary = await testbed.postgres()
        await primary.script(SCHEMA)
        replica = await testbed.postgres_replica(primary)
        process = await testbed.process("shop")
        shop, reader = await process.new("Shop", primary.at()), await process.new("Shop", replica.at())
        for _ in range(2):
            before = await shop.look("hat")
            async with testbed.lagging(replica):
                assert await shop.sell("hat")
                for _ in range(20):
                    assert await reader.look("hat") == before
            assert await reader.look("hat") == before - 1, "level as soon as the block has ended"
        testbed.prove_faults()


async def test_a_lagging_redis_shows_the_past_until_it_catches_up(on_testbed: OnTestbed) -> None:
    async with on_testbed("def nothing():\n        pass\n") as testbed:
        primary = await testbed.redis()
        replica = await testbed.redis_replica(primary)
        for number in range(3):
            await primary.truth.set("hat", number)
            async with testbed.lagging(replica):
                await primary.truth.set("hat", number + 1)
                await primary.truth.set("much", "x" * 5_000_000)
                for _ in range(20):
                    assert await replica.truth.get("hat") == str(number).encode()
            assert await replica.truth.get("hat") == str(number + 1).encode()
        testbed.prove_faults()


@pytest.mark.parametrize("kind", ["redis", "postgres"])
async def test_lag_during_which_nobody_wrote_proves_nothing(on_testbed: OnTestbed, kind: str) -> None:
    async with on_testbed("def nothing():\n        pass\n") as testbed:
        if kind == "redis":
            replica = await testbed.redis_replica(await testbed.redis())
        else:
            replica = await testbed.postgres_replica(await testbed.postgres())
        async with testbed.lagging(replica):
            pass
        with pytest.raises(Vacuous, match=f"the fault 'lag of {kind}-2' never hit"):
            testbed.prove_faults()


async def test_a_replica_that_does_not_catch_up_is_an_error_of_ours(
    on_testbed: OnTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faultline.testbed.until.WITHIN", 0.2)
    async with on_testbed("def nothing():\n        pass\n") as testbed:
        primary = await testbed.postgres()
        replica = await testbed.postgres_replica(primary)
        await replica.stall()
        await primary.script("CREATE TABLE t (a int)")
        with pytest.raises(TestbedError, match=r"waited 0\.2 s in vain until postgres-2 is level"):
            await replica.stall()


def test_statements_are_matched_by_words_in_any_case() -> None:
    match = saying("update", "STOCK")
    assert match([b"UPDATE", b"stock SET units = 0"])
    assert not match([b"UPDATE", b"orders SET units = 0"])
