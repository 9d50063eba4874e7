"""Bytes come by drops, so that every read succeeds and nothing ever ends."""

from dataclasses import dataclass
from random import Random

from faultline.components.faults.fault import Age, Fault, Ruling, Valve


@dataclass(frozen=True, slots=True)
class SlowDrip(Fault):
    """At most `size` bytes leave every `every` seconds, the first at once; usually towards the client.

    It defeats a timeout that is set on each read instead of on the whole answer.
    A hit is a chunk that was split or had to wait.
    """

    size: int
    every: float

    def __post_init__(self) -> None:
        if self.size < 1 or self.every <= 0:
            raise ValueError(f"{self.size} bytes every {self.every} s: both must be positive")

    def valve(self, chance: Random, age: Age) -> Valve:
        """A tap with one drop ready."""
        del chance, age
        return _Tap(self)


class _Tap(Valve):
    def __init__(self, fault: SlowDrip) -> None:
        self._fault = fault
        self._next_at = 0.0

    def rule(self, now: float) -> Ruling:
        del now
        return Ruling(at=self._next_at, most=self._fault.size)

    def passed(self, count: int, now: float) -> None:
        del count
        self._next_at = now + self._fault.every
