"""The connection ends in the middle of a message."""

from dataclasses import dataclass
from random import Random

from faultline.components.faults.budget import Budget
from faultline.components.faults.fault import Age, Fate, Fault, Valve


@dataclass(frozen=True, slots=True)
class Cut(Fault):
    """After `after` more bytes on a stream its connection is closed on both sides, in the orderly way (FIN).

    Usually counted towards the client. 0 closes in place of the first byte: with `Direction.TO_SERVER` the request
    never arrives, with `Direction.TO_CLIENT` it was carried out and the answer never comes.
    A hit is a connection that was cut.
    """

    after: int = 0

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ValueError(f"cut after {self.after} bytes: must not be negative")

    def valve(self, chance: Random, age: Age) -> Valve:
        """A budget of bytes from now on."""
        del chance, age
        return Budget(self.after, Fate.CUT)
