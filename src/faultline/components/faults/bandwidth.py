"""A narrow wire."""

from dataclasses import dataclass
from random import Random

from faultline.components.faults.fault import Age, Fault, Ruling, Valve

QUANTUM = 0.01
"""Bytes leave in portions worth this many seconds of the rate."""


@dataclass(frozen=True, slots=True)
class Bandwidth(Fault):
    """At most `rate` bytes a second on each stream, usually towards the client.

    A hit is a chunk that had to wait: with a generous rate and small replies there is none.
    """

    rate: float

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"bandwidth {self.rate} bytes/s: must be positive; BlackHole lets nothing through")

    def valve(self, chance: Random, age: Age) -> Valve:
        """A bucket that holds one portion."""
        del chance, age
        return _Narrow(self.rate)


class _Narrow(Valve):
    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._portion = max(1, int(rate * QUANTUM))
        self._free_at = 0.0

    def rule(self, now: float) -> Ruling:
        del now
        return Ruling(at=self._free_at, most=self._portion)

    def passed(self, count: int, now: float) -> None:
        # A timer that fires late may be made up for, by one portion at most: else the rate would fall short.
        lag = min(max(0.0, now - self._free_at), self._portion / self._rate)
        self._free_at = now - lag + count / self._rate
