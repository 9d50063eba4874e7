"""What the cart hears; it says nothing.

All replicas share Redis, so they share one queue, too: what one has heard all know.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from faultline.patterns import Away
from faultline.shop.contracts import (
    Line,
    OrderConfirmed,
    OrderPlaced,
    PriceChanged,
    ProductChanged,
    ProductCreated,
    ProductRetired,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from faultline.shop.cart.store import Carts, Products
    from faultline.shop.contracts import Said
    from faultline.shop.messages import Handler

SAYS = ()
HEARS = (
    ProductCreated.type,
    ProductChanged.type,
    PriceChanged.type,
    ProductRetired.type,
    OrderPlaced.type,
    OrderConfirmed.type,
)


def hears(carts: Carts, products: Products) -> Mapping[str, Handler]:
    """Hearing any of these twice is hearing it once, in any order: the store sees to that in one step each.

    An order that is confirmed does not say what was in it, so its placing is heard, too. While Redis is gone they wait.
    """

    async def product(event: Said) -> None:
        match event.data:
            case ProductCreated() | ProductChanged() as new:
                await products.learn(new.sku, new.version, name=new.name, unit=new.price)
            case PriceChanged() as changed:
                await products.learn(changed.sku, changed.version, unit=changed.new)
            case ProductRetired() as retired:
                await products.learn(retired.sku, retired.version, retired=True)
            case _:
                raise AssertionError(event.data)

    async def order(event: Said) -> None:
        match event.data:
            case OrderPlaced() as placed:
                lines = [Line(line.sku, line.quantity) for line in placed.lines]
                await carts.placed(placed.user, placed.order, lines)
            case OrderConfirmed() as confirmed:
                await carts.confirmed(confirmed.user, confirmed.order)
            case _:
                raise AssertionError(event.data)

    return {type_: _waiting(product if type_.startswith("catalog") else order) for type_ in HEARS}


def _waiting(handler: Handler) -> Handler:
    @wraps(handler)
    async def handle(event: Said) -> None:
        try:
            await handler(event)
        except RedisError as error:
            raise Away(repr(error)) from error

    return handle
