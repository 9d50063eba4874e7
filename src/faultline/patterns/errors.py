"""What goes wrong in a pattern, and whether the thing happened.

PatternError
├── LockUnavailable        refused: the lock was not acquired; asking again is safe
├── LockLost               refused: the lease is over; what it protected must stop
│   └── LeaseUnconfirmed   unknown: the lease may have been extended; extending again is safe
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


class ChangesLost(PatternError):
    """Unknown: the connection broke, and changes may have been missed. Enter again, and read the ranking again."""
