"""What the cart asks of the catalog: what a product is called and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from faultline.patterns import NotTried, Retry
from faultline.shop.cart.domain import Absent, Known
from faultline.shop.contracts import Money
from faultline.shop.peers import Http

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiohttp

ONE, ALL = 0.5, 1.0  # seconds for an answer, and for all that is tried for one


class _Product(msgspec.Struct):
    name: str
    price: Money
    version: int


class Catalog:
    """The catalog's replicas; whoever cannot wait for them shows what was known last."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str]) -> None:
        self._http = Http(session, addresses, within=ONE)
        self._retry = Retry(attempts=2, base=0.02, total=ALL)

    async def product(self, sku: str) -> Known | Absent | None:
        """What it says of a product; None: it says nothing within 1 s, or nothing that can be read."""
        try:
            found = await self._retry.call(lambda: self._http.get(f"/v1/products/{sku}"), idempotent=True)
            if found is None:
                return Absent()
            product = msgspec.json.decode(found, type=_Product)
        except (ConnectionError, TimeoutError, NotTried, msgspec.DecodeError):
            return None
        return Known(name=product.name, unit=product.price, version=product.version, age=0.0)
