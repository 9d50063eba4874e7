"""How slow this machine is right now, as a factor for budgets: 1.0 when nobody else wants the processor."""

import asyncio
import time

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
