"""What goes wrong in a pattern, and whether the thing happened.

PatternError
├── NotTried               refused: nothing was sent; asking again is safe
│   ├── BulkheadFull       … when fewer ask
│   ├── CircuitOpen        … after `retry_after` seconds
│   └── TooLate            … with more time: the deadline had run out before (it is a DeadlineExceeded, too)
├── DeadlineExceeded       unknown: nobody waits any more for what was begun; repeat what is idempotent
├── LockUnavailable        refused: the lock was not acquired; asking again is safe
├── LockLost               refused: the lease is over; what it protected must stop
│   └── LeaseUnconfirmed   unknown: the lease may have been extended; extending again is safe
├── NotForgotten           unknown: the cached value may still be given until it expires; forgetting again is safe
├── CacheUnavailable       unknown: an invalidation may not have happened; asking again is safe
├── PriceRefused           refused: raised by your database adapter; nothing has changed, and nothing will
├── ChangesLost            unknown: changes may have been missed; entering again is safe
├── NoTransaction          refused: nothing was written; what belongs together has to be in one transaction
├── VersionConflict        refused: others have appended meanwhile, and nothing was; read again, and decide again
├── StepRefused            refused: raised by your participant; a saga's step has not happened, and never will
├── SagaDesignError        refused: a saga that could get stuck half-way by design
├── AppendNotFirst         refused: nothing was appended; append before anything else in the transaction
├── Away                   unknown: raised by your handler; what it works on is away, and the message is not at fault
├── NotUnderstood          refused: raised by your handler; a message breaks its contract, and no time will help
├── Undelivered            refused: the events stay in the outbox; relaying again is safe
└── Parked                 refused: the message had no effect and waits in the parking queue; re-driving it is safe
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class PatternError(Exception):
    """Something that a pattern refused, or does not know the outcome of."""


class NotTried(PatternError):
    """Refused here, before anything was sent: it says nothing of whom it would have been sent to."""


class CircuitOpen(NotTried):
    """Refused without being tried: safe to retry after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"circuit open, retry in {retry_after:.1f} s")
        self.retry_after = retry_after


class BulkheadFull(NotTried):
    """Refused without being tried: as many as may are inside, and as many as may wait for them."""

    def __init__(self, inside: int, waiting: int) -> None:
        super().__init__(f"bulkhead full: {inside} inside, {waiting} waiting")


class DeadlineExceeded(PatternError, TimeoutError):
    """Unknown: the time for it was up while it ran; whether it happened nobody here knows."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not done within {seconds:.3g} s")
        self.seconds = seconds


class TooLate(NotTried, DeadlineExceeded):
    """Refused without being tried: there was no time left for it."""

    def __init__(self, seconds: float) -> None:
        PatternError.__init__(self, f"no time is left for it: {seconds:.3g} s")
        self.seconds = seconds


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


class NoTransaction(PatternError):
    """Refused: there is no transaction open that will be committed, and nothing was written."""


class VersionConflict(PatternError):
    """Refused: the stream is not as long as you thought. Nothing was appended; read it, and decide again."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"{stream} is at version {actual}, not {expected}")
        self.stream, self.expected, self.actual = stream, expected, actual


class AppendNotFirst(PatternError):
    """Refused: the transaction had written something before it appended, or appends a second time.

    Nothing was appended. Readers of all events could see it before what it comes after.
    """


class StepRefused(PatternError):
    """Refused: a step of a saga has not happened, and never will under its key. Raised by the participant, not here.

    `told` is added to the saga's data: what the undoing of the steps before needs to know, such as why.
    """

    def __init__(self, message: str, *, told: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.told = {} if told is None else told


class SagaDesignError(PatternError, ValueError):
    """Refused: the steps of a saga are such that it could get stuck half-way by design."""


class Away(PatternError):
    """Unknown: what a handler works on is away, which is no fault of the message: it is tried until that is back.

    Raised by the handler of a `Subscriber`, which must stand being called again.
    """


class NotUnderstood(PatternError):
    """Refused: a message says nothing that its handler could ever act on; it is parked at once.

    Raised by the handler of a `Subscriber` before anything has happened.
    """


class Undelivered(PatternError):
    """Refused: the broker has returned or refused events; they, and later ones of their subjects, stay in the outbox.

    Relaying again is safe. `sent`: how many others were confirmed meanwhile.
    """

    def __init__(self, message: str, sent: int) -> None:
        super().__init__(message)
        self.sent = sent


class Parked(PatternError):
    """Refused: a message that cannot be read, or has failed too often, has had no effect, and is in the parking queue.

    Re-driving it is safe, once the reason is gone.
    """
