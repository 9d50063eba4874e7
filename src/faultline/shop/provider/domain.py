"""How the provider misbehaves, and what it answers: no I/O, no await, no clock."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from faultline.shop.contracts import Money

DECLINED, UNKNOWN_CHARGE, GIVEN_BACK = "declined", "unknown-charge", "already-refunded"


class Fault(StrEnum):
    """What can be wrong with a request."""

    GONE = "gone"
    """503, and nothing else happens."""
    SLOW = "slow"
    """It waits for `seconds`, then does what it would have done."""
    DECLINE = "decline"
    """A charge is declined."""
    DECLINE_REFUND = "decline-refund"
    """Likewise a refund."""
    SILENT = "silent"
    """The money is moved, and then nothing is said for `seconds`."""
    TWICE = "twice"
    """The webhook is sent twice."""
    LATE = "late"
    """The webhook is sent after `seconds`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """When a fault strikes: at the `next` so many requests, then at a `share` (0 to 1) of them, chosen by `seed`."""

    next: int = 0
    share: float = 0.0
    seed: int = 0
    seconds: float = 0.0
    seen: int = 0
    """How many requests it has let chance decide about."""


Behaviour = Mapping[Fault, Misbehaviour]


@dataclass(frozen=True, slots=True)
class Struck:
    """The faults of one request, each with its seconds."""

    faults: Mapping[Fault, float] = field(default_factory=dict[Fault, float])

    def __contains__(self, fault: Fault) -> bool:
        return fault in self.faults

    def seconds(self, fault: Fault) -> float:
        """How long; 0 where it has not struck."""
        return self.faults.get(fault, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A charge or a refund, done or declined for good."""

    kind: str
    key: str
    amount: Money
    reference: str
    code: str = ""

    @property
    def signed_cents(self) -> int:
        """As the statement has it."""
        return self.amount.cents if self.kind == "charge" else -self.amount.cents


class KeyReused(Exception):
    """The key belongs to another request: nothing has happened."""


class UnknownCharge(Exception):
    """There is no such charge: nothing has happened, and the key is free."""


def strikes(behaviour: Behaviour, faults: frozenset[Fault]) -> tuple[Struck, Behaviour]:
    """Which of these strike the next request, and the behaviour after it."""
    struck: dict[Fault, float] = {}
    after = dict(behaviour)
    for fault in sorted(faults & behaviour.keys()):
        one = behaviour[fault]
        if one.next:
            after[fault] = replace(one, next=one.next - 1)
        elif one.share:
            after[fault] = replace(one, seen=one.seen + 1)
        if one.next or _chance(f"{one.seed} {fault} {one.seen}") < one.share:
            struck[fault] = one.seconds
    return Struck(struck), after


def written(move: Move) -> dict[str, object]:
    """What has become of it, as whoever asked is told."""
    return {
        "key": move.key,
        "status": "declined" if move.code else "succeeded",
        "code": move.code,
        "amount": {"cents": move.amount.cents, "currency": move.amount.currency},
        "reference": move.reference,
    }


def _chance(of: str) -> float:
    """A number from 0 to 1, always the same for one text."""
    return int.from_bytes(hashlib.sha256(of.encode()).digest()[:8]) / 2**64
