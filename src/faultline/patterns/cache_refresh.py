"""When an entry that is still good is loaded again, before anybody has to wait: three answers, pure and comparable.

`left` is the seconds until the entry's ttl ends (negative after it), `took` what its last load took. Whoever is told
that a refresh is due gives the caller what is there and loads in the background, one process at a time.

| policy | keeps the promise "never older than the ttl" | loads of a hot key |
|---|---|---|
| `StaleWhileRevalidate` | no: up to `beyond` longer | one a ttl |
| `Early` | yes | one every ttl less `loads` times the load |
| `XFetch` | yes | more, and more with every reader: the early time grows with the logarithm of their number |

Source of XFetch: Vattani, Chierichetti and Lowenstein, *Optimal Probabilistic Cache Stampede Prevention* (VLDB 2015).
It needs no lease, which is its point; here it has one, and what is left is its cost (`bench/cache.py` measures it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from random import Random


class Refresh(Protocol):
    """When to load again, and for how long an entry is kept after its ttl."""

    @property
    def beyond(self) -> float:
        """Seconds after its ttl for which an entry is still given."""
        ...

    def due(self, left: float, took: float, chance: Random) -> bool:
        """Whether whoever reads this entry now starts a load of it."""
        ...


@dataclass(frozen=True, slots=True)
class StaleWhileRevalidate:
    """Load when the ttl has ended, and give the old value meanwhile, for `beyond` seconds at most."""

    beyond: float

    def __post_init__(self) -> None:
        if not 0 < self.beyond < math.inf:
            raise ValueError(f"an old value is given for {self.beyond} s beyond its ttl: more than 0, and not for ever")

    def due(self, left: float, took: float, chance: Random) -> bool:
        """Once the ttl has ended."""
        del took, chance
        return left <= 0


@dataclass(frozen=True, slots=True)
class Early:
    """Load when less than `loads` times the last load is left of the ttl."""

    loads: float = 2.0
    beyond: float = 0.0

    def due(self, left: float, took: float, chance: Random) -> bool:
        """While a load would just about be over before the entry is."""
        del chance
        return left <= self.loads * took


@dataclass(frozen=True, slots=True)
class XFetch:
    """Load early by chance: each reader draws how much earlier, exponentially, in units of the last load."""

    beta: float = 1.0
    beyond: float = 0.0

    def due(self, left: float, took: float, chance: Random) -> bool:
        """With a probability that grows towards the end."""
        return left <= -took * self.beta * math.log(1.0 - chance.random())
