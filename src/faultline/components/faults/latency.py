"""Every chunk comes late."""

from dataclasses import dataclass
from random import Random

from faultline.components.faults.fault import Age, Fault, Valve


@dataclass(frozen=True, slots=True)
class Latency(Fault):
    """Each chunk leaves `seconds` ± `jitter` after it came, in order; chunks wait side by side, as on a long wire.

    Usually towards the client, so that `Latency(0.2)` adds 0.2 s to a round trip. The proxy keeps at most 1 MiB a
    stream, which bounds the throughput to that per delay. A TCP handshake is not delayed: the kernel does it.
    A hit is a chunk that was delayed.
    """

    seconds: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds < 0 or self.jitter < 0:
            raise ValueError(f"latency {self.seconds} s ± {self.jitter} s: neither may be negative")

    def valve(self, chance: Random, age: Age) -> Valve:
        """Delays drawn in the order of the chunks: the same seed gives the same delays."""
        del age
        return _Late(self, chance)


class _Late(Valve):
    def __init__(self, fault: Latency, chance: Random) -> None:
        self._fault = fault
        self._chance = chance

    def delay(self) -> float:
        jitter = self._fault.jitter
        return max(0.0, self._fault.seconds + self._chance.uniform(-jitter, jitter))
