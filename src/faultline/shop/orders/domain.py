"""The rules of orders: no I/O, no await, no clock.

                ┌─ confirmed ── return asked for ──► returning ── goods and money are back ──► returned
    ──► pending ┤
                └─ cancelled

An order is what has happened to it: `evolve` folds its events. There is no way back from any of these.

A return is a choreography: inventory and payment hear that it was asked for, do their part, and say so; nobody tells
them to. Which of the two is heard first is chance, so an order remembers what it has heard, and the second closes it.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from faultline.shop.contracts import (
    Line,
    Money,
    OrderCancelled,
    OrderConfirmed,
    OrderLine,
    OrderPlaced,
    ReturnClosed,
    ReturnRequested,
)

MOST_LINES, MOST = 100, 10_000  # so a total of the dearest products is a number that PostgreSQL and JSON can say
NAMES = uuid.UUID("2f2d5a4e-6f0e-5d0c-9a44-0d1b6f1f6a61")


class Part(StrEnum):
    """What a return is made of; each is done by a service of its own."""

    GOODS = "goods"
    MONEY = "money"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodsReturned:
    """What was sold is in the stock again."""

    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyReturned:
    """What was paid is given back."""

    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnStuck:
    """The money will not go back by itself, `code` says why: for a person."""

    order: str
    code: str

    @property
    def reason(self) -> str:
        """As the order gives it."""
        return f"the money will not go back: {self.code}"


PARTS: dict[type[GoodsReturned | MoneyReturned], Part] = {GoodsReturned: Part.GOODS, MoneyReturned: Part.MONEY}
Noted = GoodsReturned | MoneyReturned | ReturnStuck
"""What an order remembers, and nobody else is told."""
Happened = OrderPlaced | OrderConfirmed | OrderCancelled | ReturnRequested | ReturnClosed | Noted


class Status(StrEnum):
    """Of an order."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    RETURNING = "returning"
    RETURNED = "returned"

    @property
    def is_final(self) -> bool:
        """Nothing comes after it by itself: after `confirmed` only what its user asks for."""
        return self not in {Status.PENDING, Status.RETURNING}


class Reason(StrEnum):
    """Why an order was cancelled."""

    OUT_OF_STOCK = "out-of-stock"
    DECLINED = "declined"
    """The payment was."""
    TOO_LATE = "too-late"
    """It had not come as far as the payment in time."""
    NOT_HELD = "not-held"
    """What was reserved was free again when it was paid; the money goes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as it stands."""

    id: str
    user: str
    key: str
    lines: tuple[OrderLine, ...]
    total: Money
    placed_at: datetime
    status: Status = Status.PENDING
    reason: str = ""
    returned: frozenset[Part] = frozenset()
    """What of its return is done."""


class Ended(Exception):
    """Refused: the order has come to another end before."""


class NotReturnable(Exception):
    """Refused: the order was not sold, so there is nothing to come back."""


class Unsellable(Exception):
    """Refused: the order cannot be placed; the message says why."""


class KeyReused(Exception):
    """Refused: the key belongs to an order of something else."""


def named(user: str, key: str) -> str:
    """The id of the order that this user has placed, or will, by this key: always the same."""
    return str(uuid.uuid5(NAMES, f"{user}\0{key}"))


def wanted(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Each product once, by sku. Raises `Unsellable` for what is too much."""
    total: dict[str, int] = {}
    for line in lines:
        total[line.sku] = total.get(line.sku, 0) + line.quantity
    for sku, quantity in total.items():
        if not 1 <= quantity <= MOST:
            raise Unsellable(f"one orders 1 to {MOST} of a product, not {quantity} of {sku}")
    if not 1 <= len(total) <= MOST_LINES:
        raise Unsellable(f"an order has 1 to {MOST_LINES} products, not {len(total)}")
    return tuple(Line(sku, total[sku]) for sku in sorted(total))


def placed(user: str, key: str, lines: tuple[Line, ...], prices: Mapping[str, Money]) -> OrderPlaced:
    """What is said of a new order, at these prices by sku. Raises `Unsellable` where they are in two currencies."""
    if len({prices[line.sku].currency for line in lines}) > 1:
        raise Unsellable("an order is paid in one currency; place one for each")
    ordered = tuple(OrderLine(sku=line.sku, quantity=line.quantity, unit=prices[line.sku]) for line in lines)
    cents = sum(line.quantity * line.unit.cents for line in ordered)
    total = Money(cents, ordered[0].unit.currency)
    return OrderPlaced(order=named(user, key), user=user, lines=ordered, total=total, key=key)


def repeated(order: Order, lines: tuple[Line, ...]) -> Order:
    """The answer to a request whose key is known; raises `KeyReused` if it wants something else.

    Prices are not compared: those of the first request stand.
    """
    if tuple(Line(line.sku, line.quantity) for line in order.lines) != lines:
        raise KeyReused(f"order {order.id} has been placed with this key, for something else")
    return order


def evolve(order: Order | None, event: Happened, at: datetime) -> Order:
    """The order after one more event, which was recorded at that moment."""
    if isinstance(event, OrderPlaced):
        lines, total = event.lines, event.total
        return Order(id=event.order, user=event.user, key=event.key, lines=lines, total=total, placed_at=at)
    assert order, "an order begins with being placed"
    match event:
        case OrderConfirmed():
            return replace(order, status=Status.CONFIRMED)
        case OrderCancelled():
            return replace(order, status=Status.CANCELLED, reason=event.reason)
        case ReturnRequested():
            return replace(order, status=Status.RETURNING)
        case GoodsReturned() | MoneyReturned():
            return replace(order, returned=order.returned | {PARTS[type(event)]})
        case ReturnStuck():
            return replace(order, reason=event.reason)
        case ReturnClosed():
            return replace(order, status=Status.RETURNED, reason="")


def confirmed(order: Order) -> list[Happened]:
    """What happens when it is paid and sold; nothing if it was. Raises `Ended`."""
    if order.status is Status.CANCELLED:
        raise Ended(f"order {order.id} was cancelled: {order.reason}")
    return [OrderConfirmed(order=order.id, user=order.user)] if order.status is Status.PENDING else []


def cancelled(order: Order, reason: Reason) -> list[Happened]:
    """What happens when it will not be sold; nothing if it was cancelled. Raises `Ended`."""
    if order.status is Status.CANCELLED:
        return []
    if order.status is not Status.PENDING:
        raise Ended(f"order {order.id} was confirmed")
    return [OrderCancelled(order=order.id, user=order.user, reason=reason)]


def return_requested(order: Order) -> list[Happened]:
    """What happens when its user wants to give it back; nothing if that was asked for. Raises `NotReturnable`."""
    if order.status in {Status.PENDING, Status.CANCELLED}:
        raise NotReturnable(f"order {order.id} is {order.status}: only what was confirmed can be returned")
    if order.status is not Status.CONFIRMED:
        return []
    lines = tuple(Line(line.sku, line.quantity) for line in order.lines)
    return [ReturnRequested(order=order.id, user=order.user, lines=lines, total=order.total)]


def part_returned(order: Order, part: Part) -> list[Happened]:
    """What happens when a part of its return is done: the last one closes it; nothing for what is known, or no return.

    Money goes back to who has an order cancelled, too: that is no return.
    """
    if order.status is not Status.RETURNING or part in order.returned:
        return []
    happened: list[Happened] = [done(order=order.id) for done, its in PARTS.items() if its is part]
    if order.returned | {part} == set(Part):
        happened.append(ReturnClosed(order=order.id, user=order.user))
    return happened


def return_stuck(order: Order, code: str) -> list[Happened]:
    """What happens when the money will not go back; nothing where that is known, or is of no return."""
    if order.status is not Status.RETURNING or order.reason:
        return []
    return [ReturnStuck(order=order.id, code=code)]
