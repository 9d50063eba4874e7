"""What orders says, and what it hears of a return; payment's replies are heard by the checkout (`saga.hears`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import OperationalError

from faultline.patterns import Away
from faultline.shop.contracts import (
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    PaymentRefunded,
    PaymentRefundFailed,
    ReturnClosed,
    ReturnRequested,
    StockReturned,
)
from faultline.shop.orders.domain import Part, part_returned, return_stuck

if TYPE_CHECKING:
    from collections.abc import Mapping

    from faultline.shop.contracts import Said
    from faultline.shop.messages import Handler
    from faultline.shop.orders.store import Orders, Rule

SAYS = (OrderPlaced.type, OrderConfirmed.type, OrderCancelled.type, ReturnRequested.type, ReturnClosed.type)
HEARS = (StockReturned.type, PaymentRefunded.type, PaymentRefundFailed.type)


def hears(orders: Orders) -> Mapping[str, Handler]:
    """The parts of a return, in any order. A part that was heard of before changes nothing, so this needs no inbox.

    Who loses a race for the order's next version is tried again, and finds what the other has recorded.
    """

    async def record(event: Said) -> None:
        order, rule = _rule(event)
        try:
            await orders.record(order, rule)
        except OperationalError as error:  # PostgreSQL is away, which is no fault of the event
            raise Away(str(error)) from error

    return dict.fromkeys(HEARS, record)


def _rule(event: Said) -> tuple[str, Rule]:
    match event.data:
        case StockReturned(order=order):
            return order, lambda found: part_returned(found, Part.GOODS)
        case PaymentRefunded(order=order):
            return order, lambda found: part_returned(found, Part.MONEY)
        case PaymentRefundFailed(order=order, code=code):
            return order, lambda found: return_stuck(found, code)
        case _:
            raise AssertionError(f"{event.id} is not heard here")
