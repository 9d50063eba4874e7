"""What the search asks of others: all products of the catalog, page by page, and levels of inventory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import msgspec

from faultline.patterns import NotTried, Retry
from faultline.shop.contracts import Money
from faultline.shop.peers import Http
from faultline.shop.search.domain import Described, Details, Priced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import aiohttp

    from faultline.shop.search.domain import News

T = TypeVar("T")

PAGE = 100  # products that the catalog gives at once, and whose levels inventory does
CATALOG, INVENTORY = 2.0, 1.0  # seconds for an answer


class Product(msgspec.Struct, frozen=True):
    """As the catalog has it now."""

    sku: str
    name: str
    description: str
    brand: str
    category: str
    attributes: dict[str, str]
    price: Money
    version: int

    @property
    def news(self) -> tuple[News, ...]:
        """All that there is to tell of it, as of its version."""
        details = Details(
            name=self.name,
            description=self.description,
            brand=self.brand,
            category=self.category,
            attributes=self.attributes,
        )
        return Described(self.version, details), Priced(self.version, self.price)


class _Page(msgspec.Struct):
    items: list[Product]
    next: str | None


class _Level(msgspec.Struct):
    sku: str
    available: int


class Unanswered(ConnectionError):
    """The catalog or inventory does not answer, or nothing that can be read."""


class Catalog:
    """The catalog's replicas, read from the first product to the last."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str]) -> None:
        self._http = Http(session, addresses, within=CATALOG)
        self._retry = Retry(attempts=3, base=0.05, total=3 * CATALOG)

    async def pages(self) -> AsyncIterator[list[Product]]:
        """All products, by sku. Raises `Unanswered`.

        Each that is there all the time is in one of the pages; one that comes or goes meanwhile may be, or not.
        """
        following: str | None = f"?limit={PAGE}"
        while following is not None:
            found = await self._asked(f"/v1/products{following}")
            page = _decoded(found or b"", _Page)
            yield page.items
            following = page.next

    async def product(self, sku: str) -> Product | None:
        """One; None if it is not sold (any more). Raises `Unanswered`."""
        found = await self._asked(f"/v1/products/{sku}")
        return None if found is None else _decoded(found, Product)

    async def _asked(self, path: str) -> bytes | None:
        try:
            return await self._retry.call(lambda: self._http.get(path), idempotent=True)
        except (ConnectionError, TimeoutError, NotTried) as error:
            raise Unanswered(f"the catalog: {error}") from error


class Inventory:
    """Inventory's replicas."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str]) -> None:
        self._http = Http(session, addresses, within=INVENTORY)
        self._retry = Retry(attempts=2, base=0.02, total=2 * INVENTORY)

    async def levels(self, skus: Sequence[str]) -> dict[str, int]:
        """How many can be bought of each that was ever in stock. Raises `Unanswered`."""
        found: dict[str, int] = {}
        for first in range(0, len(skus), PAGE):
            path = f"/v1/stock?{urlencode([('sku', sku) for sku in skus[first : first + PAGE]])}"
            try:
                answer = await self._retry.call(partial(self._http.get, path), idempotent=True)
            except (ConnectionError, TimeoutError, NotTried) as error:
                raise Unanswered(f"inventory: {error}") from error
            found |= {level.sku: level.available for level in _decoded(answer or b"", list[_Level])}
        return found


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise Unanswered(f"what was answered cannot be read: {error}") from error
