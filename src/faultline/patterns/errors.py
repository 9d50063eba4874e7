"""What goes wrong in a pattern, and whether the thing happened.

PatternError
├── LockUnavailable        refused: the lock was not acquired; asking again is safe
├── LockLost               refused: the lease is over; what it protected must stop
│   └── LeaseUnconfirmed   unknown: the lease may have been extended; extending again is safe
├── NotForgotten           unknown: the cached value may still be given until it expires; forgetting again is safe
├── CacheUnavailable       unknown: an invalidation may not have happened; asking again is safe
├── PriceRefused           refused: raised by your database adapter; nothing has changed, and nothing will
└── ChangesLost            unknown: changes may have been missed; entering again is safe
"""


class PatternError(Exception):
    """Something that a pattern refused, or does not know the outcome of."""


class LockUnavailable(PatternError):
    """Refused: somebody else holds the lock, or too few servers answer; what the try had set is taken back."""


class LockLost(PatternError):
    """Refused: the lease ran out, was released, or belongs to somebody else by now; stop working on it."""


class LeaseUnconfirmed(LockLost):
    """Unknown: too few servers said whether the lease was extended.

    It counts as lost, until extending it again succeeds, which is safe to try.
    """


class NotForgotten(PatternError):
    """Unknown: Redis did not say that a cached value is gone; it may be given until it expires. Repeating is safe."""


class CacheUnavailable(PatternError):
    """Unknown: Redis has not confirmed an invalidation; until it has, what was to be forgotten may be handed out.

    Asking again is safe.
    """


class PriceRefused(PatternError):
    """Refused: the database has not changed a price, and never will; asking again is as useless as before.

    Raised by the adapter to your database, not here. What else it raises counts as an unknown outcome.
    """


class ChangesLost(PatternError):
    """Unknown: the connection broke, and changes may have been missed. Enter again, and read the ranking again."""
