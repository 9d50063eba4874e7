"""Bytes go in and nothing comes out."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from faultline.components.faults.direction import Direction
from faultline.components.faults.fault import Age, Fate, Fault, Ruling, Valve


@dataclass(frozen=True, slots=True)
class BlackHole(Fault):
    """Whatever passes is lost, on open connections and new ones, and nobody is told; usually both ways.

    New connections are accepted. The end of a stream is lost too: when a client goes away, the server
    keeps its side open. Lost bytes are never delivered later: when the fault is removed, a connection that
    lost anything is reset, since a stream with a gap cannot go on; one that lost nothing goes on.
    A hit is a chunk (or end of stream) that was swallowed.
    """

    usual: ClassVar[Direction] = Direction.BOTH

    def valve(self, chance: Random, age: Age) -> Valve:
        """A hole."""
        del chance, age
        return _Hole()


class _Hole(Valve):
    def rule(self, now: float) -> Ruling:
        del now
        return Ruling(fate=Fate.SWALLOW)
