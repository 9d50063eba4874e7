"""How slow this machine is right now: as a factor for budgets, and as seconds by which it lets processes wake."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

_BURN = 0.02  # seconds of processor time
_NAP = 0.002  # seconds


async def contention() -> float:
    """At least 1.0: wall time over processor time of a short burn, or lateness of short sleeps, whichever is worse.

    Costs about 50 ms. Needs no calibration: an idle machine of any speed gives about 1.
    """
    began, worked = time.perf_counter(), time.thread_time()
    while time.thread_time() - worked < _BURN:
        pass
    burn = (time.perf_counter() - began) / _BURN
    began = time.perf_counter()
    for _ in range(10):
        await asyncio.sleep(_NAP)
    naps = (time.perf_counter() - began) / (10 * _NAP) - 0.5  # a sleep is late by up to half a nap on any machine
    return max(1.0, burn, naps)


@dataclass(slots=True)
class Lateness:
    """By how much this process has woken too late, each time."""

    seen: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=10_000))  # instant, seconds

    @property
    def seconds(self) -> float:
        """All of it together."""
        return sum(late for _, late in self.seen)

    def worst_since(self, start: float) -> float:
        """Seconds by which the latest waking since that instant (`time.monotonic`) was late."""
        return max((late for instant, late in self.seen if instant >= start), default=0.0)


@contextlib.asynccontextmanager
async def measured_lateness() -> AsyncIterator[Lateness]:
    """How late this machine lets a process wake during the block, by a task that sleeps 5 ms at a time."""
    lateness = Lateness()
    beat = asyncio.create_task(_beat(lateness))
    try:
        yield lateness
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)


async def _beat(lateness: Lateness) -> None:
    nap = 0.005
    while True:
        began = time.monotonic()
        await asyncio.sleep(nap)
        ended = time.monotonic()
        lateness.seen.append((ended, ended - began - nap))
