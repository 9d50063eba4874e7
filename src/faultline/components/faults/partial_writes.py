"""A reader gets its message in crumbs."""

from dataclasses import dataclass
from random import Random

from faultline.components.faults.fault import Age, Fault, Ruling, Valve


@dataclass(frozen=True, slots=True)
class PartialWrites(Fault):
    """Every chunk leaves in writes of 1 to `most` bytes each, `gap` seconds apart; usually towards the client.

    Each is a segment of its own, but a reader that is slow may still find several together. With no gap the
    event loop goes round once between two. A hit is a chunk that was split.
    """

    most: int = 7
    gap: float = 0.0

    def __post_init__(self) -> None:
        if self.most < 1 or self.gap < 0:
            raise ValueError(f"writes of up to {self.most} bytes, {self.gap} s apart: at least 1 byte and 0 s")

    def valve(self, chance: Random, age: Age) -> Valve:
        """Sizes drawn in order: the same seed gives the same sizes."""
        del age
        return _Crumbs(self, chance)


class _Crumbs(Valve):
    def __init__(self, fault: PartialWrites, chance: Random) -> None:
        self._fault = fault
        self._chance = chance
        self._next_at = 0.0
        self._size = chance.randint(1, fault.most)

    def rule(self, now: float) -> Ruling:
        del now
        return Ruling(at=self._next_at, most=self._size)

    def passed(self, count: int, now: float) -> None:
        del count
        self._next_at = now + self._fault.gap
        self._size = self._chance.randint(1, self._fault.most)
