"""A process that does nothing by chance but what the operating system gives it: for code that must not be guessed."""

import random
from typing import Any

from faultline.testbed.wall_clock import stop_wall_clock

SEED = 1
INSTANT = 1_700_000_000.0  # seconds since 1970


def make_foreseeable() -> None:
    """Let every generator of `random` begin alike, however it is seeded, and the wall clock stand still.

    For this process, and for good. `random.SystemRandom`, `secrets` and `os.urandom` stay as they are.
    """
    seed = random.Random.seed

    def seed_alike(self: random.Random, a: Any = None, version: int = 2) -> None:  # noqa: ARG001 - whatever they are
        seed(self, SEED)

    random.Random.seed = seed_alike  # type: ignore[method-assign] # also for generators of the solution's own
    shared = random.seed.__self__  # type: ignore[attr-defined] # a method of the generator that all functions share
    random.seed = shared.seed
    random.seed()
    stop_wall_clock(INSTANT)
