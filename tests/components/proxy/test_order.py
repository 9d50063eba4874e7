"""Under any mix of faults a stream is what was sent: in order, unchanged, without gaps."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from faultline.components.faults import Bandwidth, Direction, Fault, Latency, PartialWrites, SlowDrip
from faultline.components.proxy import FaultProxy

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[tuple[End, End]]]

SLOW: list[Callable[[Random], Fault]] = [
    lambda chance: Latency(chance.uniform(0, 0.02), jitter=chance.uniform(0, 0.02)),
    lambda chance: Bandwidth(chance.randint(1_000_000, 20_000_000)),
    lambda chance: PartialWrites(chance.randint(500, 5_000)),
    lambda chance: SlowDrip(chance.randint(2_000, 20_000), every=0.001),
]


@pytest.mark.parametrize("seed", range(12))
async def test_bytes_keep_their_order_while_faults_come_and_go(connect: Connect, plain: FaultProxy, seed: int) -> None:
    """Both directions at once, chunks of all sizes, faults added and removed in between."""
    chance = Random(seed)
    client, server = await connect()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        going = [
            group.create_task(send(*ends, Random(f"{seed}{name}")))
            for name, ends in (("there", (client, server)), ("back", (server, client)))
        ]
        while not all(task.done() for task in going):
            plain.add(chance.choice(SLOW)(chance), chance.choice(list(Direction)))
            for _ in range(chance.randint(1, 100)):
                await asyncio.sleep(0)
            if chance.random() < 0.4:
                plain.heal()

    counts = plain.counts
    assert counts.bytes_to_server == going[0].result()
    assert counts.bytes_to_client == going[1].result()


async def send(sender: End, receiver: End, chance: Random) -> int:
    """Send random chunks, half close, and compare what comes."""
    sent = bytearray()

    async def write() -> None:
        for _ in range(60):
            chunk = chance.randbytes(chance.choice([1, 10, 1_000, 20_000]))
            sent.extend(chunk)
            sender[1].write(chunk)
            await sender[1].drain()
            await asyncio.sleep(0)
        sender[1].write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        received = group.create_task(receiver[0].read())
    assert received.result() == sent
    return len(sent)
