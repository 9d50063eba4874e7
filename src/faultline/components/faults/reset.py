"""The connection is torn down without a goodbye."""

from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from faultline.components.faults.budget import Budget
from faultline.components.faults.direction import Direction
from faultline.components.faults.fault import Age, Fate, Fault, Valve


@dataclass(frozen=True, slots=True)
class Reset(Fault):
    """Both sides get a TCP reset (RST), and what was on its way is lost.

    Without `after`: connections that are open now at once, and while the fault is active each new one right after
    it was accepted. With `after`: each connection once that many more bytes passed in the direction given (0: in
    place of the first byte). `ages` narrows it to open or to new connections.
    The client of a connection reset on accept sees it in its first read, or in connect() already.
    A hit is a connection that was reset.
    """

    usual: ClassVar[Direction] = Direction.BOTH

    after: int | None = field(default=None, kw_only=True)
    ages: frozenset[Age] = field(default=frozenset(Age), kw_only=True)

    def __post_init__(self) -> None:
        if self.after is not None and self.after < 0:
            raise ValueError(f"reset after {self.after} bytes: must not be negative")

    def fate_of(self, age: Age) -> Fate:
        """Reset, unless bytes are to be counted first."""
        return Fate.RESET if self.after is None and age in self.ages else Fate.PASS

    def valve(self, chance: Random, age: Age) -> Valve | None:
        """A budget of bytes from now on, where bytes are to be counted."""
        del chance
        return None if self.after is None or age not in self.ages else Budget(self.after, Fate.RESET)
