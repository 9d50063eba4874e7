"""What the checker may refuse.

ChaosError
├── Unreadable     refused: what an invariant is about cannot be read; nothing is said of it
├── NotQuiet       after healing, the shop has not come to rest in time; the message says what still moves
└── NotReached     a sweep's run did not get as far as it must
"""


class ChaosError(Exception):
    """Root of the tree."""


class Unreadable(ChaosError):
    """A store that holds the evidence does not answer, or is not there."""


class NotQuiet(ChaosError):
    """Something is still under way: what is checked now may be in the middle of a change."""


class NotReached(ChaosError):
    """A checkout that was to be broken has not begun."""
