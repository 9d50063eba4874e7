"""What the catalog hears and says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.patterns import Away, NotForgotten
from faultline.shop.contracts import PriceChanged, ProductChanged, ProductCreated, ProductRetired

if TYPE_CHECKING:
    from collections.abc import Mapping

    from faultline.patterns import CacheAside
    from faultline.shop.catalog.domain import Product
    from faultline.shop.contracts import Said
    from faultline.shop.messages import Handler

SAYS = (ProductCreated.type, ProductChanged.type, PriceChanged.type, ProductRetired.type)
HEARS = SAYS  # a product that is new may be remembered as unknown


def hears(cache: CacheAside[Product]) -> Mapping[str, Handler]:
    """Its own changes: whoever made one may have been killed between the commit and the cache.

    Forgetting twice is forgetting, so this needs no inbox. While Redis is gone it waits: all that is in the queue needs
    Redis, and what Redis has kept when it comes back may be old.
    """

    async def forget(event: Said) -> None:
        assert isinstance(event.data, ProductCreated | ProductChanged | PriceChanged | ProductRetired)
        try:
            await cache.forget(event.data.sku)
        except NotForgotten as error:
            raise Away(str(error)) from error

    return dict.fromkeys(HEARS, forget)
