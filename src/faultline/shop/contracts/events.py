"""All events, one class each; the class is the contract, the JSON Schema in `schemas/` is made of it.

A new field with a default is the same version. Anything else is a new class with the next version in its name, and the
old one stays as long as somebody says it. Who hears ignores fields that it does not know.
"""

from datetime import datetime
from typing import ClassVar

import msgspec


class Money(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """An amount; `currency` is ISO 4217."""

    cents: int
    currency: str = "EUR"


class ProductCreated(msgspec.Struct, frozen=True, kw_only=True):
    """A product can be bought from now on."""

    type: ClassVar[str] = "catalog.product-created.v1"
    sku: str
    name: str
    description: str
    brand: str
    category: str
    attributes: dict[str, str]
    price: Money
    version: int


class ProductChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A product is called, described or sorted in otherwise; it costs what it did. All of it, as it is now."""

    type: ClassVar[str] = "catalog.product-changed.v1"
    sku: str
    name: str
    description: str
    brand: str
    category: str
    attributes: dict[str, str]
    price: Money
    version: int


class PriceChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A product costs something else."""

    type: ClassVar[str] = "catalog.price-changed.v1"
    sku: str
    old: Money
    new: Money
    valid_from: datetime
    version: int


class ProductRetired(msgspec.Struct, frozen=True, kw_only=True):
    """A product cannot be bought any more."""

    type: ClassVar[str] = "catalog.product-retired.v1"
    sku: str
    version: int


class Line(msgspec.Struct, frozen=True):
    """So many of a product."""

    sku: str
    quantity: int


class StockReceived(msgspec.Struct, frozen=True, kw_only=True):
    """There is more of a product; `receipt` names the delivery."""

    type: ClassVar[str] = "inventory.stock-received.v1"
    sku: str
    quantity: int
    receipt: str


class StockReserved(msgspec.Struct, frozen=True, kw_only=True):
    """An order holds these until it is committed or released, or until then."""

    type: ClassVar[str] = "inventory.stock-reserved.v1"
    order: str
    lines: tuple[Line, ...]
    expires_at: datetime


class ReservationRejected(msgspec.Struct, frozen=True, kw_only=True):
    """An order cannot have all that it wants, and holds nothing."""

    type: ClassVar[str] = "inventory.reservation-rejected.v1"
    order: str
    short_of: str


class ReservationCommitted(msgspec.Struct, frozen=True, kw_only=True):
    """What an order held is sold."""

    type: ClassVar[str] = "inventory.reservation-committed.v1"
    order: str
    lines: tuple[Line, ...]


class ReservationReleased(msgspec.Struct, frozen=True, kw_only=True):
    """What an order held is free again: it was asked for."""

    type: ClassVar[str] = "inventory.reservation-released.v1"
    order: str
    lines: tuple[Line, ...]


class ReservationExpired(msgspec.Struct, frozen=True, kw_only=True):
    """What an order held is free again: it was held too long."""

    type: ClassVar[str] = "inventory.reservation-expired.v1"
    order: str
    lines: tuple[Line, ...]


class StockReturned(msgspec.Struct, frozen=True, kw_only=True):
    """What an order was sold is in the stock again."""

    type: ClassVar[str] = "inventory.stock-returned.v1"
    order: str
    lines: tuple[Line, ...]


class StockSetAside(msgspec.Struct, frozen=True, kw_only=True):
    """So many of a product are for a flash sale now, and for nobody else."""

    type: ClassVar[str] = "inventory.stock-set-aside.v1"
    sku: str
    quantity: int


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    """So many of a product, at what one of them cost when it was ordered."""

    sku: str
    quantity: int
    unit: Money


class OrderPlaced(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants to buy these; it is pending. `key`: the caller's, for asking again."""

    type: ClassVar[str] = "orders.order-placed.v1"
    order: str
    user: str
    lines: tuple[OrderLine, ...]
    total: Money
    key: str


class OrderConfirmed(msgspec.Struct, frozen=True, kw_only=True):
    """It is paid and sold; that is final."""

    type: ClassVar[str] = "orders.order-confirmed.v1"
    order: str
    user: str


class OrderCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """It will not be sold, and costs nothing; that is final."""

    type: ClassVar[str] = "orders.order-cancelled.v1"
    order: str
    user: str
    reason: str


class ReturnRequested(msgspec.Struct, frozen=True, kw_only=True):
    """A confirmed order comes back as a whole: its goods into the stock, its money to who has paid it."""

    type: ClassVar[str] = "orders.return-requested.v1"
    order: str
    user: str
    lines: tuple[Line, ...]
    total: Money


class ReturnClosed(msgspec.Struct, frozen=True, kw_only=True):
    """The goods are back, and so is the money; that is final."""

    type: ClassVar[str] = "orders.return-closed.v1"
    order: str
    user: str


class PaymentCaptured(msgspec.Struct, frozen=True, kw_only=True):
    """An order is paid. `reference`: the provider's name for it; `transaction`: the ledger's."""

    type: ClassVar[str] = "payment.captured.v1"
    order: str
    amount: Money
    reference: str
    transaction: str


class PaymentDeclined(msgspec.Struct, frozen=True, kw_only=True):
    """An order is not paid, and will not be."""

    type: ClassVar[str] = "payment.declined.v1"
    order: str
    code: str


class PaymentRefunded(msgspec.Struct, frozen=True, kw_only=True):
    """All that was captured for an order was given back."""

    type: ClassVar[str] = "payment.refunded.v1"
    order: str
    amount: Money
    reference: str
    transaction: str


class PaymentRefundFailed(msgspec.Struct, frozen=True, kw_only=True):
    """The provider will not give it back: somebody has to look at it."""

    type: ClassVar[str] = "payment.refund-failed.v1"
    order: str
    code: str


class UserRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """There is a new account. `email_hash`: SHA-256 of the address in small letters, to compare by."""

    type: ClassVar[str] = "users.user-registered.v1"
    user: str
    email_hash: str
    role: str


class UserErased(msgspec.Struct, frozen=True, kw_only=True):
    """An account is gone, with all that said whose it was: whoever keeps more of this user forgets that, too."""

    type: ClassVar[str] = "users.user-erased.v1"
    user: str


class NotificationSent(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody was told something. `channel`: how; `template`: which words."""

    type: ClassVar[str] = "notifications.sent.v1"
    notification: str
    user: str
    channel: str
    template: str


Contract = (
    ProductCreated
    | ProductChanged
    | PriceChanged
    | ProductRetired
    | StockReceived
    | StockReserved
    | ReservationRejected
    | ReservationCommitted
    | ReservationReleased
    | ReservationExpired
    | StockReturned
    | StockSetAside
    | OrderPlaced
    | OrderConfirmed
    | OrderCancelled
    | ReturnRequested
    | ReturnClosed
    | PaymentCaptured
    | PaymentDeclined
    | PaymentRefunded
    | PaymentRefundFailed
    | UserRegistered
    | UserErased
    | NotificationSent
)

EVENTS: dict[str, type[Contract]] = {
    event.type: event
    for event in (
        ProductCreated,
        ProductChanged,
        PriceChanged,
        ProductRetired,
        StockReceived,
        StockReserved,
        ReservationRejected,
        ReservationCommitted,
        ReservationReleased,
        ReservationExpired,
        StockReturned,
        StockSetAside,
        OrderPlaced,
        OrderConfirmed,
        OrderCancelled,
        ReturnRequested,
        ReturnClosed,
        PaymentCaptured,
        PaymentDeclined,
        PaymentRefunded,
        PaymentRefundFailed,
        UserRegistered,
        UserErased,
        NotificationSent,
    )
}
