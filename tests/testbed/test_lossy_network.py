"""Real packets are lost, the kernel counts them, and what was lost comes late, whole and in order."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from faultline.components import Unavailable
from faultline.components.tools import NFT
from faultline.testbed import Direction, HttpAnswer, Latency, Testbed, TestbedError, Vacuous, named

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

SHOP = """
    import asyncio
    import http.client
    import socket
    from urllib.parse import urlsplit

    async def push(redis, items):
        for item in range(items):
            await redis.rpush("list", item)

    async def fetch(redis, key):
        value = await redis.get(key)
        return [len(value), value == bytes(range(256)) * (len(value) // 256)]

    async def ping(redis):
        return await redis.ping()

    def post(url, body):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("POST", "/", body)
        return connection.getresponse().read()

    def interfaces():
        return [name for _, name in socket.if_nameindex()]
"""
RETRANSMITTED = 0.19  # seconds: the kernel sends nothing again before 0.2 s, but for what later packets show to be lost


async def test_a_lost_request_comes_late_and_once(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        redis = await testbed.redis()
        network = await testbed.lossy_network()
        way = await testbed.proxy(redis, over=network)
        shop = await testbed.process("shop")
        await shop.request(None, "push", (way.at(), 3), {})
        assert network.lost == 0

        await network.lose(one_in=1)
        await network.lose(one_in=2)  # in the place of the first
        began = time.monotonic()
        await shop.request(None, "push", (way.at(), 3), {})
        assert time.monotonic() - began > 3 * RETRANSMITTED
        assert network.lost >= 3
        assert await redis.truth.lrange("list", 0, -1) == [b"0", b"1", b"2"] * 2
        testbed.prove_faults()


async def test_what_comes_back_through_loss_is_whole_and_in_order(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        redis = await testbed.redis()
        network = await testbed.lossy_network()
        way = await testbed.proxy(redis, over=network)
        await redis.truth.set("page", bytes(range(256)) * 4096)
        await network.lose(one_in=5, direction=Direction.TO_CLIENT)
        shop = await testbed.process("shop")
        assert await shop.request(None, "fetch", (way.at(), "page"), {}) == [2**20, True]
        assert network.lost


@pytest.mark.parametrize("direction", [Direction.TO_SERVER, Direction.TO_CLIENT])
async def test_with_one_in_one_nothing_gets_through_that_way_until_it_heals(
    on_testbed: OnTestbed, direction: Direction
) -> None:
    async with on_testbed(SHOP) as testbed:
        redis = await testbed.redis()
        network = await testbed.lossy_network()
        way = await testbed.proxy(redis, over=network)
        shop = await testbed.process("shop")
        push = (way.at(socket_timeout=20.0), 1)
        await shop.request(None, "push", push, {})
        await network.lose(one_in=1, direction=direction)
        pushing = asyncio.create_task(shop.request(None, "push", push, {}))

        async def sent_again() -> bool:
            return network.lost >= 2

        await testbed.until(sent_again, "the lost packet was sent, and lost, again")
        assert await redis.truth.llen("list") == (1 if direction is Direction.TO_SERVER else 2)
        assert not pushing.done()
        await network.heal()
        lost = network.lost
        await pushing
        assert await redis.truth.llen("list") == 2
        assert network.lost == lost


async def test_one_network_for_several_servers_with_faults_and_holds(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        network = await testbed.lossy_network()
        ways = [await testbed.proxy(redis, over=network) for redis in await testbed.redises(2)]
        upstream = await testbed.upstream(lambda request: HttpAnswer(body=request.body))
        web = await testbed.proxy(upstream, over=network)
        shop = await testbed.process("shop")
        await network.lose(one_in=2, direction=Direction.BOTH)
        for way in ways:
            await shop.request(None, "push", (way.at(), 1), {})
        assert await shop.request(None, "post", (web.url, b"hat"), {}) == b"hat"
        assert network.lost >= 3
        await network.heal()

        hold = ways[0].proxy.hold(named("rpush"))
        pushing = asyncio.create_task(shop.request(None, "push", (ways[0].at(), 1), {}))
        await hold.reached(timeout=20)
        assert await ways[0].server.truth.llen("list") == 1
        hold.release()
        await pushing
        testbed.inject(ways[1], Latency(0.01))
        await shop.request(None, "push", (ways[1].at(), 1), {})
        testbed.prove_faults()


async def test_a_killed_server_is_gone_and_its_successor_is_reached(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        redis = await testbed.redis(durable=True)
        network = await testbed.lossy_network()
        way = await testbed.proxy(redis, over=network)
        shop = await testbed.process("shop")
        await shop.request(None, "push", (way.at(), 1), {})
        await redis.kill()
        with testbed.raises("ConnectionError"):
            await shop.request(None, "ping", (way.at(),), {})
        await redis.restart()
        assert await shop.request(None, "ping", (way.at(),), {}) is True


async def test_postgres_commits_through_loss(on_testbed: OnTestbed) -> None:
    import psycopg

    async with on_testbed(SHOP) as testbed:
        db = await testbed.postgres()
        await db.script("CREATE TABLE sold (hat int)")
        network = await testbed.lossy_network()
        way = await testbed.proxy(db, over=network)
        async with await psycopg.AsyncConnection.connect(way.at()) as connection:
            await network.lose(one_in=3, direction=Direction.BOTH)
            for hat in range(3):
                await connection.execute("INSERT INTO sold VALUES (%s)", (hat,))
        assert await db.truth("SELECT array_agg(hat ORDER BY hat) FROM sold") == [([0, 1, 2],)]
        testbed.prove_faults()


async def test_a_network_that_lost_nothing_proves_nothing(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        network = await testbed.lossy_network()
        way = await testbed.proxy(await testbed.redis(), over=network)
        await (await testbed.process("shop")).request(None, "push", (way.at(), 3), {})
        await network.lose(one_in=1)
        await network.heal()
        with pytest.raises(Vacuous, match="the fault 'packet loss' never hit"):
            testbed.prove_faults()


async def test_a_way_over_it_has_no_edges(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        way = await testbed.proxy(await testbed.redis(), over=await testbed.lossy_network())
        with pytest.raises(TestbedError, match="a way over a lossy network has no edges"):
            async for _ in testbed.edges(way):
                pass


def network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


async def test_the_learner_is_not_in_it_and_nothing_is_left_of_it(on_testbed: OnTestbed) -> None:
    async with on_testbed(SHOP) as testbed:
        before = set(psutil.Process().children(recursive=True))
        network = await testbed.lossy_network()
        [keeper] = set(psutil.Process().children(recursive=True)) - before
        assert network_of(keeper.pid) != network_of(os.getpid())
        shop = await testbed.process("shop")
        assert network_of(shop.pid) == network_of(os.getpid())
        made = network.make()
    assert not keeper.is_running()
    made.close()


HOLDER = """
import asyncio, os, sys
from faultline.components import Clone
from faultline.components.tools import NFT, tool
from faultline.testbed.history import History
from faultline.testbed.lossy_network import lossy_network

async def hold():
    async with lossy_network(await tool(NFT, Clone.here()), History()) as network:
        sockets = [network.make(), network.caller()]
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


def test_it_ends_when_whoever_made_it_is_killed() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"ready\n"
        keepers = psutil.Process(holder.pid).children(recursive=True)
        assert keepers
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        _, left = psutil.wait_procs(keepers, timeout=5)
        assert not left


async def test_where_there_are_no_namespaces_it_says_so(
    on_testbed: OnTestbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "unshare").write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    (fake / "unshare").chmod(0o755)
    async with on_testbed(SHOP) as testbed:
        monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
        with pytest.raises(
            TestbedError, match=r"no lossy network: .* \(unshare: Operation not permitted\); allow user"
        ):
            await testbed.lossy_network()


async def test_where_the_kernel_drops_nothing_it_says_so(
    on_testbed: OnTestbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "nsenter"
    fake.write_text("#!/bin/sh\necho 'Error: Could not process rule: Operation not supported'\nexit 1\n")
    fake.chmod(0o755)
    async with on_testbed(SHOP) as testbed:
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(TestbedError, match="no packets can be dropped here; nft said: Error: Could not process"):
            await testbed.lossy_network()


async def test_where_there_is_no_nft_it_says_what_to_install(
    on_testbed: OnTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faultline.testbed.testbed.NFT", replace(NFT, providers=()))
    async with on_testbed(SHOP) as testbed:
        with pytest.raises(Unavailable, match="no nft on this machine:\n  Debian: apt install nftables"):
            await testbed.lossy_network()
