"""What inventory says, and the returns that it hears of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.patterns import NotUnderstood
from faultline.shop.contracts import (
    ReservationCommitted,
    ReservationExpired,
    ReservationRejected,
    ReservationReleased,
    ReturnRequested,
    StockReceived,
    StockReserved,
    StockReturned,
    StockSetAside,
)
from faultline.shop.inventory.domain import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

    from faultline.shop.contracts import Said
    from faultline.shop.inventory.store import Stock
    from faultline.shop.messages import Effect

SAYS = (
    StockReceived.type,
    StockReserved.type,
    ReservationRejected.type,
    ReservationCommitted.type,
    ReservationReleased.type,
    ReservationExpired.type,
    StockReturned.type,
    StockSetAside.type,
)
HEARS = (ReturnRequested.type,)


def hears(stock: Stock) -> Mapping[str, Effect]:
    """Goods that come back. What was never sold does not, and a later attempt would not change that: it is parked."""

    async def take_back(tx: AsyncConnection, event: Said) -> None:
        assert isinstance(event.data, ReturnRequested)
        try:
            await stock.take_back(tx, event.data.order)
        except Refused as error:
            raise NotUnderstood(str(error)) from error

    return {ReturnRequested.type: take_back}
