"""What a started RabbitMQ promises, alone, as a cluster, and beside another lab."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.exceptions import DeliveryError

from faultline.components import Instance, Supervisor
from faultline.components.http import ask
from faultline.components.processes import Kin, ended, look

pytestmark = [
    pytest.mark.once,
    pytest.mark.slow,
    pytest.mark.timeout(240),
]  # a node needs 3 s of a processor to start, and here are four of them

PERSISTENT = Message(b"order 1", delivery_mode=DeliveryMode.PERSISTENT)


async def managed(server: Instance, path: str) -> Any:
    answer = await ask(f"http://guest:guest@{server.host}:{server.ports['management']}/api/{path}")
    assert answer.status == 200
    return json.loads(answer.body)


async def test_confirmed_durable_messages_outlive_a_kill(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        server = await supervisor.start("rabbitmq")
        async with await aio_pika.connect(server.url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            queue = await channel.declare_queue("orders", durable=True)
            await channel.default_exchange.publish(PERSISTENT, "orders")
        assert (await managed(server, "overview"))["rabbitmq_version"]
        metrics = await ask(f"http://{server.host}:{server.ports['metrics']}/metrics")
        assert b"rabbitmq_" in metrics.body

        await server.pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await managed(server, "overview")
        await server.resume()
        assert await managed(server, "overview")

        await server.kill()
        await server.start()

        async with await aio_pika.connect(server.url) as connection:
            queue = await (await connection.channel()).get_queue("orders")
            message = await queue.get(timeout=10)
            await message.ack()
        assert message.body == b"order 1"
        assert {process_name(member.pid) for member in server.record.kin.members()} >= {"beam.smp"}
        kin, running = server.record.kin, [process_name(member.pid) for member in server.record.kin.members()]
    assert "epmd" not in running
    assert kin.members() == []


async def test_a_quorum_queue_outlives_its_leader(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        first = await supervisor.start("rabbitmq", name="rabbit-1")
        joining = (supervisor.start("rabbitmq", name=f"rabbit-{n}", settings={"joins": "rabbit-1"}) for n in (2, 3))
        nodes = {node.name: node for node in (first, *await asyncio.gather(*joining))}
        running = {node["name"] for node in await managed(first, "nodes") if node["running"]}
        assert running == {f"{name}@localhost" for name in nodes}

        async with await aio_pika.connect(nodes["rabbit-2"].url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.declare_queue("quorum", durable=True, arguments={"x-queue-type": "quorum"})
            await channel.default_exchange.publish(PERSISTENT, "quorum")
            facts = await managed(first, "queues/%2F/quorum")
        assert len(facts["members"]) == 3

        leader = facts["leader"].split("@")[0]
        await nodes.pop(leader).kill()
        survivor = next(iter(nodes.values()))
        while not await confirmed(survivor, Message(b"order 2"), "quorum"):  # noqa: ASYNC110 -- refused until it leads
            await asyncio.sleep(0.05)
        async with await aio_pika.connect(survivor.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue("quorum")
            bodies = [(await queue.get(no_ack=True, timeout=30)).body for _ in range(2)]
        assert sorted(bodies) == [b"order 1", b"order 2"]


async def confirmed(server: Instance, message: Message, queue: str) -> bool:
    """Whether it was, on a connection of its own: a channel that has met the dead leader refuses for ever (3.10)."""
    async with await aio_pika.connect(server.url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        try:
            await channel.default_exchange.publish(message, queue, timeout=60)
        except DeliveryError:
            return False
        return True


OTHER_LAB = """
import asyncio, sys
from pathlib import Path
from faultline.components import Supervisor

async def main():
    async with Supervisor(Path(sys.argv[1])) as supervisor:
        server = await supervisor.start("rabbitmq")
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_two_labs_with_the_same_names_do_not_meet_and_a_killed_lab_leaves_no_node(tmp_path: Path) -> None:
    other = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", OTHER_LAB, str(tmp_path / "other")], stdout=subprocess.PIPE
    )
    try:
        async with Supervisor(tmp_path / "mine") as supervisor:
            mine = await supervisor.start("rabbitmq")
            assert other.stdout
            told = await asyncio.to_thread(other.stdout.readline)
            theirs = look(int(told))
            assert theirs
            assert [node["name"] for node in await managed(mine, "nodes")] == ["rabbitmq-1@localhost"]

            other.send_signal(signal.SIGKILL)

            assert await ended(theirs, within=30)
            left = Kin(tmp_path / "other" / "rabbitmq-1", "", None)
            for member in left.members():  # what it had started hears that it is gone
                assert await ended(member, within=30)
            assert await managed(mine, "overview")
    finally:
        other.kill()
        other.communicate()


def process_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
