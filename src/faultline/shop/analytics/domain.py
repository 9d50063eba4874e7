"""The rules of analytics: no I/O, no await, no clock.

    event ─ staged ─► what a report may know of it ─ due_… (views) ─► facts and dimensions

What the star schema holds follows from the set of events that were staged, and from nothing else: not from the order in
which they came, how often, or when. So there is no rule for a late event, but that its day may have been closed.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

from faultline.shop.contracts import (
    Contract,
    OrderConfirmed,
    OrderPlaced,
    PaymentCaptured,
    PaymentRefunded,
    ProductChanged,
    ProductCreated,
    ReturnClosed,
    UserErased,
    UserRegistered,
)

ORDERS, PAYMENT, CATALOG, USERS = "orders", "payment", "catalog", "users"
CLOSING = (ORDERS, PAYMENT)
"""Sources whose events are facts: a day is over when both have told of the next one."""
ASKED = "history/"
"""How the id of something begins that was asked for: where it was heard, too, that counts."""
SLACK = timedelta(minutes=10)
"""Events of different orders overtake each other: so far behind the watermark a day is still open."""
PATIENCE = timedelta(hours=6)
"""After that a day is closed though a source has been silent: where nobody buys, nothing is told of the next day."""


class By(StrEnum):
    """What sales are added up by."""

    DAY = "day"
    PRODUCT = "product"
    CATEGORY = "category"
    BRAND = "brand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What is kept of an event; `customer` is a pseudonym."""

    id: str
    source: str
    type: str
    subject: str
    sequence: int
    at: datetime
    customer: str | None
    data: dict[str, Any]


def pseudonym(key: bytes, user: str) -> str:
    """The same for the same user; without the key nobody can tell whose it is, nor try users out."""
    return hmac.new(key, user.encode(), hashlib.sha256).hexdigest()[:32]


def staged(event: Contract, *, id_: str, subject: str, sequence: int, at: datetime, key: bytes) -> Staged:
    """What is kept of an event: nothing that says who somebody is, and nothing that no report asks for."""
    data: dict[str, Any] = {}
    customer: str | None = None
    match event:
        case ProductCreated() | ProductChanged():
            data = {"name": event.name, "brand": event.brand, "category": event.category}
        case OrderPlaced():
            customer = pseudonym(key, event.user)
            data = {"lines": [_line(line) for line in event.lines], "guest": event.user.startswith("guest-")}
        case PaymentCaptured() | PaymentRefunded():
            sign = 1 if isinstance(event, PaymentCaptured) else -1
            data = {
                "transaction": event.transaction,
                "cents": sign * event.amount.cents,
                "currency": event.amount.currency,
            }
        case UserRegistered() | UserErased():
            customer = subject = pseudonym(key, event.user)
            id_ = f"{event.type}/{customer}/{sequence}"
        case OrderConfirmed() | ReturnClosed():
            pass
        case _:
            raise AssertionError(f"{event.type} is not heard here")
    source = event.type.partition(".")[0]
    return Staged(
        id=id_,
        source=source,
        type=event.type,
        subject=subject,
        sequence=sequence,
        at=at,
        customer=customer,
        data=data,
    )


def _line(line: Any) -> dict[str, Any]:
    cents = line.quantity * line.unit.cents
    return {"sku": line.sku, "quantity": line.quantity, "cents": cents, "currency": line.unit.currency}


def over(watermarks: Mapping[str, datetime], now: datetime) -> date:
    """The first day that is not over: all sources have come past the end of those before, or have had long enough."""
    told = min((watermarks.get(source, datetime.min.replace(tzinfo=UTC)) for source in CLOSING), default=now)
    moment = now - PATIENCE
    if told > moment + SLACK:
        moment = told - SLACK
    return moment.astimezone(UTC).date()


class Late(StrEnum):
    """Why a day that was closed is open again."""

    EVENT = "a late event"
    VERSION = "a late version of a product"
    BACKFILL = "a backfill"


def lateness(source: str) -> Late:
    """What an event of this source is, when it changes a day that was closed."""
    return Late.VERSION if source == CATALOG else Late.EVENT


class Difference(StrEnum):
    """Why facts and ledger do not say the same of an order."""

    MISSING = "missing"
    """One of them has nothing of it on that day."""
    AMOUNT = "amount"
    LATE = "late"
    """Over all days they agree: one of them has it on another."""
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Of one order, in cents, less what was given back; None where there is nothing, which is not a sum of zero."""

    sold: int | None
    """By the facts of the day."""
    heard: int | None
    """By payment's events of the day."""
    moved: int | None
    """By payment's ledger on the day."""
    sold_ever: int | None
    heard_ever: int | None
    is_doubled: bool
    """A product of it is sold, or given back, twice; or its money was taken, or given back, twice."""


def difference(sums: Sums) -> Difference | None:
    """What is wrong with the order on that day; None if nothing is."""
    seen = (sums.sold, sums.heard, sums.moved)
    if sums.is_doubled:
        return Difference.DUPLICATE
    if len({cents or 0 for cents in seen}) == 1:
        return None
    if sums.sold_ever is not None and sums.sold_ever == sums.heard_ever and sums.sold != sums.heard:
        return Difference.LATE
    return Difference.MISSING if None in seen else Difference.AMOUNT
