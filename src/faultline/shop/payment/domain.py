"""The rules of captures and refunds: no I/O, no await, no clock.

                      ┌─ charged ─► captured ─ refund asked, and given back ─► refunded
    Capture ─► pending┤
                      └─ declined by the provider, too late, or cancelled by a Refund that came first ─► declined

Commands and what the provider says of money may come twice, late, and in any order; what they mean depends on what has
happened, not on which of them told of it first. Each change gives the capture its next version, and is told once.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from faultline.shop.contracts import (
    Capture,
    CaptureReplied,
    Contract,
    Money,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentRefundFailed,
    Refund,
    RefundReplied,
)

TOO_LATE, CANCELLED = "too-late", "cancelled"  # codes of what we decline ourselves


class State(StrEnum):
    """Of a payment, as others see it."""

    PENDING = "pending"
    CAPTURED = "captured"
    DECLINED = "declined"
    REFUNDED = "refunded"


class Move(StrEnum):
    """Which way money goes; the end of the key under which it does."""

    CAPTURE = "capture"
    REFUND = "refund"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """All that is known of the money of one order."""

    order: str
    state: State
    version: int
    amount: Money
    until: datetime | None
    """When a capture that was not begun is too late; None: nobody has asked for one yet."""
    code: str = ""
    reference: str = ""
    """The provider's name for the last move."""
    refund_asked: bool = False
    refund_code: str = ""
    """Why the provider will not give it back; empty where it has not said so."""
    begun: bool = False
    """The provider may have been asked for the next move."""

    @property
    def next_move(self) -> Move | None:
        """What is still to be asked of the provider."""
        if self.state is State.PENDING:
            return Move.CAPTURE
        if self.state is State.CAPTURED and self.refund_asked and not self.refund_code:
            return Move.REFUND
        return None

    @property
    def capture_is_answered(self) -> bool:
        """It is known for good what has become of the capture that was asked for."""
        return self.until is not None and self.state is not State.PENDING

    @property
    def refund_is_answered(self) -> bool:
        """There is no money of the order here, and there will be none."""
        return self.refund_asked and self.state in {State.DECLINED, State.REFUNDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What the provider says has become of a move, for good."""

    amount: Money
    reference: str
    code: str = ""
    """Why it was declined; empty if it was not."""


class AskedOtherwise(Exception):
    """The order has asked for another amount before: nothing has changed, and that stays so."""


def key(order: str, move: Move) -> str:
    """The name of a move, at the provider and in the ledger."""
    return f"{order}:{move}"


def moved(key: str) -> tuple[str, Move] | None:
    """The order and the move of that name; None if it was never ours."""
    order, _, move = key.rpartition(":")
    return (order, Move(move)) if order and move in set(Move) else None


def capturing(found: Payment | None, asked: Capture) -> Payment:
    """With a command to capture. Raises `AskedOtherwise`."""
    if found is None:
        return Payment(order=asked.order, state=State.PENDING, version=1, amount=asked.amount, until=asked.until)
    _require_the_same(found, asked.amount)
    return found if found.until else _next(replace(found, until=asked.until))


def refunding(found: Payment | None, asked: Refund) -> Payment:
    """With a command to give back. Raises `AskedOtherwise`.

    What was never captured will not be; what may be about to be is first resolved.
    """
    if found is None:
        return Payment(
            order=asked.order,
            state=State.DECLINED,
            version=1,
            amount=asked.amount,
            until=None,
            code=CANCELLED,
            refund_asked=True,
        )
    _require_the_same(found, asked.amount)
    if found.refund_asked:
        return found
    if found.state is State.PENDING and not found.begun:
        return _next(replace(found, state=State.DECLINED, code=CANCELLED, refund_asked=True))
    return _next(replace(found, refund_asked=True))


def begun(found: Payment, now: datetime) -> Payment:
    """About to ask the provider for its next move; or declined, if that is a capture that begins too late."""
    if found.begun:
        return found
    if found.state is State.PENDING and found.until and found.until <= now:
        return _next(replace(found, state=State.DECLINED, code=TOO_LATE))
    return replace(found, begun=True)


def settled(found: Payment, move: Move, by: Moved) -> Payment:
    """With what the provider says of a move: the same if that was known, or is of what we never asked for."""
    if found.next_move is not move:
        return found
    if move is Move.CAPTURE:
        state = State.DECLINED if by.code else State.CAPTURED
        return _next(replace(found, state=state, code=by.code, reference=by.reference, begun=False))
    if by.code:
        return _next(replace(found, refund_code=by.code, begun=False))
    return _next(replace(found, state=State.REFUNDED, reference=by.reference, begun=False))


def entries(move: Move, amount: Money) -> dict[str, int]:
    """What each account gets by it, in cents; the sum is zero."""
    if move is Move.CAPTURE:
        return {"provider": amount.cents, "revenue": -amount.cents}
    return {"provider": -amount.cents, "refunds": amount.cents}


def events(before: Payment | None, now: Payment) -> list[Contract]:
    """What the change tells whoever wants to know."""
    order, amount, reference = now.order, now.amount, now.reference
    told: list[Contract] = []
    if now.capture_is_answered and not (before and before.capture_is_answered):
        if now.state is State.CAPTURED:
            name = key(order, Move.CAPTURE)
            told.append(PaymentCaptured(order=order, amount=amount, reference=reference, transaction=name))
        else:
            told.append(PaymentDeclined(order=order, code=now.code))
    if before and before.state is State.CAPTURED:
        if now.state is State.REFUNDED:
            name = key(order, Move.REFUND)
            told.append(PaymentRefunded(order=order, amount=amount, reference=reference, transaction=name))
        elif now.refund_code and not before.refund_code:
            told.append(PaymentRefundFailed(order=order, code=now.refund_code))
    return told


def replies(before: Payment | None, now: Payment) -> list[CaptureReplied | RefundReplied]:
    """What the change answers."""
    told: list[CaptureReplied | RefundReplied] = []
    if now.capture_is_answered and not (before and before.capture_is_answered):
        is_captured = now.state is State.CAPTURED
        told.append(CaptureReplied(order=now.order, outcome="captured" if is_captured else "declined", code=now.code))
    if now.refund_is_answered and not (before and before.refund_is_answered):
        told.append(RefundReplied(order=now.order))
    return told


def _next(now: Payment) -> Payment:
    return replace(now, version=now.version + 1)


def _require_the_same(found: Payment, amount: Money) -> None:
    if found.amount != amount:
        raise AskedOtherwise(f"order {found.order} has asked for {found.amount} before, now for {amount}")
