"""What the gateway hears: what is kept at the edge has become another. It says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.patterns import Away, NotForgotten
from faultline.shop.contracts import PriceChanged, ProductChanged, ProductRetired

if TYPE_CHECKING:
    from collections.abc import Mapping

    from faultline.shop.contracts import Said
    from faultline.shop.gateway.edge_cache import EdgeCache
    from faultline.shop.messages import Handler

SAYS = ()
HEARS = (ProductChanged.type, PriceChanged.type, ProductRetired.type)


def hears(products: EdgeCache) -> Mapping[str, Handler]:
    """All gateways share Redis, so they share one queue, too: what one has purged is gone for all.

    While Redis is gone it waits, and purging twice is purging.
    """

    async def purge(event: Said) -> None:
        assert isinstance(event.data, ProductChanged | PriceChanged | ProductRetired)
        try:
            await products.purge(f"/v1/products/{event.data.sku}", event.data.version)
        except NotForgotten as error:
            raise Away(str(error)) from error

    return dict.fromkeys(HEARS, purge)
