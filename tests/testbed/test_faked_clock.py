"""A server's wall clock that the check moves: it says so itself, and keys run out."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from faultline.components import Unavailable
from faultline.components.tools import FAKETIME
from faultline.testbed import PostgresServer, RedisServer, Testbed, TestbedError, Vacuous, until

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

SHOP = """
    async def keep(redis, key, seconds):
        await redis.set(key, "here", ex=seconds)

    async def find(redis, key):
        return await redis.get(key)
"""
DAY = 86_400.0
MONTH = 30 * DAY


async def test_a_key_of_thirty_days_runs_out_in_a_check(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        redis = await testbed.redis(clock=clock)
        shop = await testbed.process("shop")
        await shop.request(None, "keep", (redis.at(), "cart", int(MONTH)), {})

        await clock.advance(MONTH - 60)
        assert 50 <= await redis.truth.ttl("cart") <= 60
        assert await shop.request(None, "find", (redis.at(), "cart"), {}) == b"here"
        await clock.advance(61)
        assert await shop.request(None, "find", (redis.at(), "cart"), {}) is None
        testbed.prove_faults()


async def test_a_redis_whose_clock_goes_back_keeps_a_key_for_longer(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        redis = await testbed.redis(clock=clock)
        await redis.truth.set("lock", 1, ex=10)
        await clock.advance(-3600)
        assert 3600 <= await redis.truth.ttl("lock") <= 3610
        assert abs(await redis.wall_clock() - time.time() + 3600) < 1


async def test_postgres_sees_it_in_new_and_open_sessions_and_keeps_now_in_a_transaction(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        db = await testbed.postgres(clock=clock)
        await db.script("CREATE TABLE token (until timestamptz); INSERT INTO token VALUES (now() + interval '30 days')")
        valid = "SELECT until > now() FROM token"
        async with testbed.held_transaction(db, "SELECT 1") as held:
            began = await held.execute("SELECT now()")
            await clock.advance(MONTH + 1)
            assert await held.execute("SELECT now()") == began
            assert await held.execute("SELECT clock_timestamp() - now() > interval '30 days'") == [(True,)]
        assert await db.truth(valid) == [(False,)]
        async with await db.connect() as another:
            assert await (await another.execute(valid)).fetchone() == (False,)
        await clock.set(datetime(2020, 2, 29, 23, 59, 59, tzinfo=UTC))
        assert await db.truth("SELECT date_trunc('minute', clock_timestamp()) = '2020-02-29 23:59Z'") == [(True,)]
        testbed.prove_faults()


async def test_a_monotonic_clock_does_not_jump(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        db = await testbed.postgres(clock=clock)
        async with await db.connect() as session:
            measuring = asyncio.create_task(session.execute("EXPLAIN (ANALYZE, FORMAT JSON) SELECT pg_sleep(0.5)"))

            async def sleeps() -> bool:
                return bool(await db.truth("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

            await testbed.until(sleeps, "it slept")
            await clock.advance(DAY)
            [([plan],)] = await (await measuring).fetchall()
        assert 400 < plan["Execution Time"] < 60_000, "milliseconds, by a monotonic clock"


async def test_one_clock_for_several_servers_and_others_for_others(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock, another = await testbed.faked_clock(), await testbed.faked_clock()
        both: list[RedisServer | PostgresServer] = [
            await testbed.redis(clock=clock),
            await testbed.postgres(clock=clock),
        ]
        other, plain = await testbed.redis(clock=another), await testbed.redis()
        await clock.advance(MONTH)
        await another.advance(-DAY)
        now = time.time()
        off = [round(await server.wall_clock() - now) for server in (*both, other, plain)]
        assert [round(seconds / DAY) for seconds in off] == [30, 30, -1, 0]


async def test_a_restarted_server_has_it_and_one_that_stands_still_is_not_waited_for(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        redis = await testbed.redis(durable=True, clock=clock)
        await redis.truth.set("cart", 1, ex=int(MONTH))
        async with testbed.paused(redis):
            await clock.advance(DAY)
        with pytest.raises(Vacuous, match="the fault 'the servers' clock that the check moves' never hit"):
            testbed.prove_faults()
        await redis.kill()
        await clock.advance(MONTH)
        await redis.restart()
        assert abs(await redis.wall_clock() - time.time() - MONTH - DAY) < 1
        assert await redis.truth.get("cart") is None
        await clock.advance(1)
        testbed.prove_faults()


async def test_a_clock_that_was_not_moved_or_that_nobody_has_proves_nothing(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        await testbed.redis()
        await clock.advance(DAY)
        with pytest.raises(Vacuous, match="the servers' clock that the check moves"):
            testbed.prove_faults()


def names_of(pids: Sequence[int | None]) -> list[Path]:
    return [name for pid in pids for name in Path("/dev/shm").glob(f"*faketime*_{pid}")]


async def test_it_leaves_no_names_in_the_shared_memory(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        servers: list[RedisServer | PostgresServer] = [
            await testbed.redis(clock=clock),
            await testbed.postgres(clock=clock),
        ]
        pids = [server.instance.pid for server in servers]
        for server in servers:
            await server.kill()
            await server.restart()
            pids.append(server.instance.pid)
        assert all(pids)
        assert not names_of(pids)


async def test_a_program_that_loads_no_library_is_named(on_testbed: OnTestbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(until, "WITHIN", 0.2)
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        redis = await testbed.redis()  # started without it, as one that is linked statically
        await clock.started(redis)
        with pytest.raises(TestbedError, match=r"in vain until the clock of redis-1 .* loads no libfaketime"):
            await clock.advance(DAY)


async def test_whoever_chooses_where_servers_come_from_has_the_tool_all_the_same(
    on_testbed: OnTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_PROVIDER", "wheel")
    async with on_testbed(SHOP) as testbed:
        clock = await testbed.faked_clock()
        await testbed.redis(clock=clock)
        await clock.advance(DAY)
        testbed.prove_faults()


async def test_where_there_is_no_library_it_says_what_to_install(
    on_testbed: OnTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faultline.testbed.testbed.FAKETIME", replace(FAKETIME, providers=()))
    async with on_testbed(SHOP) as testbed:
        with pytest.raises(Unavailable, match="no libfaketime on this machine:\n  Debian: apt install libfaketime"):
            await testbed.faked_clock()
