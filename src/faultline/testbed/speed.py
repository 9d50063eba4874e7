"""How slow this machine is right now: as a factor for budgets, and as seconds lost while something was timed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

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
    """Seconds by which this process has woken too late, added up."""

    seconds: float = 0.0


@contextlib.asynccontextmanager
async def measured_lateness() -> AsyncIterator[Lateness]:
    """A count of the seconds that this machine was late during the block, by a task that sleeps 5 ms at a time."""
    lateness = Lateness()
    beat = asyncio.create_task(_beat(lateness))
    try:
        yield lateness
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)


async def _beat(lateness: Lateness) -> None:
    nap, usual = 0.005, 0.001
    while True:
        began = time.monotonic()
        await asyncio.sleep(nap)
        lateness.seconds += max(0.0, time.monotonic() - began - nap - usual)
