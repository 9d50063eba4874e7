"""What a fault is to the proxy: a value that says how it treats connections, and a valve for each stream.

A stream is one direction of one connection. Its bytes queue in order; before any leave, every valve on the
stream rules on the head of the queue, and the strictest ruling holds:

    chunk arrives → delay() of each valve, added up → rule(now) of each valve → bytes leave → passed()
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum, auto
from random import Random
from typing import Any, ClassVar

from faultline.components.faults.direction import Direction


class Age(Enum):
    """Whether a connection was there when the fault was added."""

    OPEN = "open"
    NEW = "new"


class Fate(Enum):
    """What becomes of a connection, or of the bytes at the head of a stream."""

    PASS = auto()
    SWALLOW = auto()
    CUT = auto()
    RESET = auto()


@dataclass(frozen=True, slots=True)
class Ruling:
    """Up to `most` bytes may leave at `at` (loop time, seconds), unless another `fate` awaits them."""

    at: float = 0.0
    most: int | None = None
    fate: Fate = Fate.PASS


FREE = Ruling()


class Valve:
    """Lets everything through at once; a fault's own valve overrides what it needs."""

    slows: ClassVar[bool] = True
    """Whether making bytes wait is what this valve is for, and so a hit."""

    def delay(self) -> float:
        """How long the chunk that just arrived is held up; called once a chunk, in order."""
        return 0.0

    def rule(self, now: float) -> Ruling:
        """What the bytes at the head of the stream may do now; called any number of times."""
        del now
        return FREE

    def passed(self, count: int, now: float) -> None:
        """Take note that this many bytes have left."""


class Fault:
    """A fault that does nothing; each fault is a frozen value that overrides what it needs."""

    __slots__ = ()

    usual: ClassVar[Direction] = Direction.TO_CLIENT
    """The direction meant when none is given."""

    refuses: ClassVar[bool] = False
    """Whether the proxy's port is closed while this fault is active."""

    def __str__(self) -> str:
        """What it is, without what goes without saying: `Reset(after=3)`."""
        settings: dict[str, Any] = {each.name: each.default for each in fields(self)}  # type: ignore[arg-type]
        told = [f"{name}={value!r}" for name, usual in settings.items() if (value := getattr(self, name)) != usual]
        return f"{type(self).__name__}({', '.join(told)})"

    def fate_of(self, age: Age) -> Fate:
        """What happens to a whole connection at once: when the fault is added, or on accept."""
        del age
        return Fate.PASS

    def valve(self, chance: Random, age: Age) -> Valve | None:
        """A new valve for one stream, or None where this fault leaves the stream alone."""
        del chance, age
        return None

    def meter(self) -> Callable[[], int] | None:
        """A count of hits that somebody else keeps, for what the proxy cannot see itself."""
        return None
