"""Ratios that a loaded machine cannot bend much: all candidates take turns in one run, in shuffled order."""

import gc
import os
import platform
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median

Candidate = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds for one call, by round, and its ratio to the base."""

    rounds: list[float]
    ratio: float

    @property
    def middle(self) -> float:
        return median(self.rounds)


async def compare(
    candidates: Mapping[str, Candidate],
    *,
    base: str,
    calls: int,
    rounds: int,
    chance: random.Random,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Cost]:
    """Time `calls` calls of each candidate in every round, and take the median of the rounds' ratios to `base`.

    A ratio is taken within a round, where all had about the same neighbours. With `time.thread_time` as the clock it
    is what the client itself costs, without the waits.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name in chance.sample(list(candidates), len(candidates)):
            call = candidates[name]
            gc.collect()
            began = clock()
            for _ in range(calls):
                await call()
            taken[name].append((clock() - began) / calls * 1e6)
    return {
        name: Cost(times, median(time / first for time, first in zip(times, taken[base], strict=True)))
        for name, times in taken.items()
    }


def machine() -> str:
    """Where it was measured, and how busy that was."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {system}, load {load}"


def goal(sentence: str, met: bool) -> bool:
    """Say whether what was aimed at was reached."""
    print(f"  {'met   ' if met else 'MISSED'}  {sentence}")
    return met


def table(found: Mapping[str, Cost]) -> None:
    """Microseconds a call, the least and the most of the rounds, and the ratio."""
    for name, cost in found.items():
        least, most = min(cost.rounds), max(cost.rounds)
        print(f"  {name:32} {cost.middle:8.1f}  ({least:.1f}-{most:.1f})   x{cost.ratio:.2f}")
