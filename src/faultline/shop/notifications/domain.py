"""What somebody is told when something has happened: templates and their words. No I/O, no await, no clock."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from faultline.shop.contracts import (
    Money,
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    PaymentRefunded,
    PaymentRefundFailed,
    ReturnClosed,
    ReturnRequested,
    UserRegistered,
)

Told = (
    UserRegistered
    | OrderPlaced
    | OrderConfirmed
    | OrderCancelled
    | ReturnRequested
    | ReturnClosed
    | PaymentRefunded
    | PaymentRefundFailed
)
"""Of what somebody is told."""

NAMES = uuid.UUID("6f6f1d5c-3f0a-4f35-9a3e-2d5f0a4f7c11")
"""In which ids of notifications are made."""
INBOX = "inbox"
"""The channel that there is."""

WHY: Mapping[str, str] = {
    "out-of-stock": "There was not enough of it left",
    "declined": "The payment was declined",
    "too-late": "It took too long until it was paid",
    "not-held": "It was paid too late, and somebody else had got it by then",
}
"""Why an order was cancelled, in words; by the reason that the event gives."""
UNPAID = frozenset({"out-of-stock", "declined", "too-late"})
"""Reasons with which no money has moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What is to be told of one event."""

    template: str
    about: str
    """The order, or the account."""
    title: str
    text: str


def named(event: str, recipient: str) -> str:
    """The id of what this recipient is told of this event: always the same."""
    return str(uuid.uuid5(NAMES, f"{event}\0{recipient}"))


def amount(money: Money) -> str:
    """As people write it, such as `1,299.00 EUR`."""
    whole, cents = divmod(money.cents, 100)
    return f"{whole:,}.{cents:02} {money.currency}"


def short(order: str) -> str:
    """What an order is called in a sentence: as much of its id as tells it from a person's others."""
    return order if len(order) <= 12 else order[:8]


def notice(event: Told) -> Notice:
    """What is told of it."""
    title, words = TEMPLATES[type(event)]
    about = event.user if isinstance(event, UserRegistered) else event.order
    template = event.type.split(".")[1]
    return Notice(template=template, about=about, title=title.format(order=short(about)), text=words(event))


def _registered(_: UserRegistered) -> str:
    return "Your account is there. Here you are told what becomes of your orders."


def _placed(event: OrderPlaced) -> str:
    pieces = sum(line.quantity for line in event.lines)
    return f"{pieces} {'item' if pieces == 1 else 'items'} for {amount(event.total)}. We tell you when it is paid."


def _confirmed(_: OrderConfirmed) -> str:
    return "It is paid, and yours."


def _cancelled(event: OrderCancelled) -> str:
    """A reason that is not known here, since it is newer, is no reason for a person."""
    why = WHY.get(event.reason, "We could not carry it out")
    unpaid = event.reason in UNPAID
    return f"{why}. {'You have not paid anything.' if unpaid else 'What you have paid, if anything, goes back to you.'}"


def _return_requested(event: ReturnRequested) -> str:
    return f"We take it back. {amount(event.total)} go back to you, and we tell you when they have."


def _return_closed(_: ReturnClosed) -> str:
    return "The goods are back with us, and your money is on its way to you."


def _refunded(event: PaymentRefunded) -> str:
    return f"{amount(event.amount)} were given back, to where they came from."


def _refund_failed(_: PaymentRefundFailed) -> str:
    return "Your money could not be given back yet. Somebody of us looks into it; you need not do anything."


TEMPLATES: Mapping[type[Told], tuple[str, Callable[[Any], str]]] = {
    UserRegistered: ("Welcome", _registered),
    OrderPlaced: ("Order {order} is placed", _placed),
    OrderConfirmed: ("Order {order} is confirmed", _confirmed),
    OrderCancelled: ("Order {order} is cancelled", _cancelled),
    ReturnRequested: ("Order {order} goes back", _return_requested),
    ReturnClosed: ("Order {order} is returned", _return_closed),
    PaymentRefunded: ("Order {order} is refunded", _refunded),
    PaymentRefundFailed: ("Order {order} is not refunded yet", _refund_failed),
}
"""The title, and the words, by what has happened."""
