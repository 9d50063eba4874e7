"""The catalog's routes and bodies."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field

from faultline.patterns import CacheAside, CircuitBreaker, NotForgotten
from faultline.shop.bodies import PriceBody, place, token
from faultline.shop.catalog.domain import Description, Order, Place, Product, VersionMismatch
from faultline.shop.catalog.store import Products, Trending
from faultline.shop.contracts import Money
from faultline.shop.errors import Problem
from faultline.shop.problems import raises

VERSION = re.compile("[0-9]{1,18}")
SEEN: dict[int | str, dict[str, Any]] = {304: {"description": "you have it already"}}

Sku = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="such as `hat-7`")]


class NewDescription(BaseModel):
    """What is to be said of a product."""

    name: str = Field(min_length=1, max_length=200)
    description: str = Field(default="", max_length=5000)
    brand: str = Field(default="", max_length=100)
    category: str = Field(min_length=1, max_length=100)
    attributes: dict[str, str] = Field(default_factory=dict[str, str])


class NewProduct(NewDescription):
    """What a product is to be."""

    sku: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    price: PriceBody


class ProductBody(NewProduct):
    """A product; `version` counts its changes."""

    version: int


class ProductPage(BaseModel):
    """Some products; `next` is where there may be more, and null where there are none."""

    items: list[ProductBody]
    next: str | None
    """The next page: a reference relative to the address of this one."""


class NewPrice(BaseModel):
    """What a product is to cost."""

    price: PriceBody


class PastPrice(BaseModel):
    """What a product cost from a moment on."""

    price: PriceBody
    valid_from: datetime


class Rank(BaseModel):
    """A product and how often it was looked at within the last hour; the first rank is 1."""

    rank: int
    views: int
    product: ProductBody


class Api:
    """The routes over these; `breaker` stands before `trending`, whose Redis may be gone."""

    def __init__(
        self,
        products: Products,
        cache: CacheAside[Product],
        trending: Trending,
        breaker: CircuitBreaker,
        now: Callable[[], datetime],
    ) -> None:
        self._products = products
        self._cache = cache
        self._trending = trending
        self._breaker = breaker
        self._now = now

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["catalog"])
        router.get("/products")(self.pages)
        router.post("/products", status_code=201, responses=raises(409))(self.create)
        router.get("/products/{sku}", response_model=ProductBody, responses=SEEN | raises(404))(self.product)
        router.put("/products/{sku}", responses=raises(404, 412))(self.describe)
        router.delete("/products/{sku}", status_code=204)(self.retire)
        router.get("/products/{sku}/prices", responses=raises(404))(self.prices)
        router.put("/products/{sku}/price", responses=raises(404, 412))(self.price)
        router.post("/products/{sku}/views", status_code=204, responses=raises(404))(self.viewed)
        router.get("/trending")(self.ranking)
        return router

    async def _known(self, sku: str) -> Product:
        if product := await self._cache.get(sku):
            return product
        raise Problem(404, "unknown-product", f"there is no product {sku}")

    async def _forget(self, sku: str) -> None:
        with suppress(NotForgotten):  # the event of the change is in the outbox: it will be, when Redis is back
            await self._cache.forget(sku)

    async def pages(
        self,
        request: Request,
        category: Annotated[str | None, Query(max_length=100)] = None,
        order: Order = Order.SKU,
        after: Annotated[str | None, Query(description="from `next`")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> ProductPage:
        """Products, page by page.

        A page begins behind the last product of the one before (keyset pagination): none comes twice or is left out
        because another was added or retired meanwhile, and the thousandth page costs what the first does.
        """
        behind = _place(after) if after else None
        found = await self._products.page(order=order, category=category, after=behind, limit=limit)
        more = None
        if len(found) == limit:
            url = request.url.include_query_params(after=token(found[-1].price.cents, found[-1].sku))
            more = f"?{url.query}"  # relative: good behind any gateway
        return ProductPage(items=[_body(product) for product in found], next=more)

    async def create(self, new: NewProduct, response: Response) -> ProductBody:
        """Add a product. 409 if its sku is taken, also by one that is retired."""
        product = Product(**{**new.model_dump(), "price": _money(new.price)})
        if not await self._products.add([product], at=self._now()):
            raise Problem(409, "sku-taken", f"there is, or was, a product {product.sku}")
        await self._forget(product.sku)  # that there is none
        response.headers["Location"] = f"/v1/products/{product.sku}"
        return _body(product)

    async def product(
        self, sku: Sku, response: Response, if_none_match: Annotated[str | None, Header()] = None
    ) -> ProductBody | Response:
        """One product, as of at most a moment ago. Its version is its `ETag`; 304 if you have that already."""
        found = await self._known(sku)
        response.headers["ETag"] = _etag(found)
        if if_none_match == _etag(found):
            return Response(status_code=304, headers={"ETag": _etag(found)})
        return _body(found)

    async def describe(
        self, sku: Sku, new: NewDescription, response: Response, if_match: Annotated[str | None, Header()] = None
    ) -> ProductBody:
        """Say all of this of it, from now on; what it costs is another route's. `If-Match` as there."""
        try:
            description = Description(**new.model_dump())
            changed = await self._products.describe(sku, description, seen=_version(if_match), at=self._now())
        except VersionMismatch as error:
            raise Problem(412, "version-mismatch", f"{error}: read it again") from error
        if not changed:
            raise Problem(404, "unknown-product", f"there is no product {sku}")
        await self._forget(sku)
        response.headers["ETag"] = _etag(changed)
        return _body(changed)

    async def price(
        self, sku: Sku, new: NewPrice, response: Response, if_match: Annotated[str | None, Header()] = None
    ) -> ProductBody:
        """Change what it costs, from now on.

        With `If-Match` only if it is still at that version (412 otherwise). Repeating it is safe: a price that it has
        already is no change.
        """
        try:
            changed = await self._products.reprice(sku, _money(new.price), seen=_version(if_match), at=self._now())
        except VersionMismatch as error:
            raise Problem(412, "version-mismatch", f"{error}: read it again") from error
        except ValueError as error:
            raise Problem(422, "wrong-currency", str(error)) from error
        if not changed:
            raise Problem(404, "unknown-product", f"there is no product {sku}")
        await self._forget(sku)
        response.headers["ETag"] = _etag(changed)
        return _body(changed)

    async def prices(self, sku: Sku) -> list[PastPrice]:
        """What it has cost, the oldest first."""
        found = await self._products.history(sku)
        if not found:
            raise Problem(404, "unknown-product", f"there is no product {sku}")
        return [PastPrice(price=_amount(money), valid_from=since) for money, since in found]

    async def retire(self, sku: Sku) -> None:
        """Sell it no more. Its sku stays taken; repeating it is safe."""
        await self._products.retire(sku, at=self._now())
        await self._forget(sku)

    async def viewed(self, sku: Sku) -> None:
        """Somebody looks at it: it counts for `/v1/trending`."""
        await self._known(sku)
        await self._breaker.call(self._trending.record, sku)

    async def ranking(self, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> list[Rank]:
        """What was looked at most within the last hour. 503 while Redis is gone: nothing else knows."""
        entries = await self._breaker.call(self._trending.top, limit)
        found = [(entry, await self._cache.get(entry.sku)) for entry in entries]
        return [Rank(rank=entry.rank, views=entry.score, product=_body(one)) for entry, one in found if one]


def _body(product: Product) -> ProductBody:
    words = msgspec.to_builtins(product)
    return ProductBody.model_validate(words)


def _money(body: PriceBody) -> Money:
    return Money(body.cents, body.currency)


def _amount(money: Money) -> PriceBody:
    return PriceBody(cents=money.cents, currency=money.currency)


def _etag(product: Product) -> str:
    return f'"{product.version}"'


def _version(etag: str | None) -> int | None:
    if etag is None or etag == "*":
        return None
    bare = etag.removeprefix("W/").strip('"')
    if not VERSION.fullmatch(bare):
        raise Problem(412, "version-mismatch", f"{etag} was never the version of a product")
    return int(bare)


def _place(after: str) -> Place:
    return Place(*place(after, tuple[int, str]))
