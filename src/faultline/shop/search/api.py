"""The routes and bodies of the search."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from faultline.patterns import CircuitBreaker, deadline
from faultline.patterns.deadline import from_headers
from faultline.shop.bodies import MoneyBody, place, token
from faultline.shop.errors import Problem
from faultline.shop.problems import raises
from faultline.shop.search.cluster import Unreachable
from faultline.shop.search.domain import FACETS, RANGES, Difference, Document, Order, Wanted, choices
from faultline.shop.search.store import Index, Stores
from faultline.shop.search.upkeep import Busy, State, Upkeep, Work

LONGEST = 200  # letters of a text: what it costs grows with its words
SOON = 1.0  # seconds after which OpenSearch may be asked again

Values = Annotated[list[str], Query(max_length=50)]


class FoundProduct(BaseModel):
    """A product as the index knows it, a moment behind the catalog; `version` as there."""

    sku: str
    name: str
    description: str
    brand: str
    category: str
    attributes: dict[str, str]
    price: MoneyBody
    in_stock: bool
    version: int


class ChoiceBody(BaseModel):
    """A value of a facet; `count`: how many products there are with it, given what is chosen of the other facets."""

    value: str
    count: int
    chosen: bool


class SearchPage(BaseModel):
    """Products that fit. `did_you_mean` is a text that has more to do with what there is, if this one has not."""

    items: list[FoundProduct]
    total: int
    next: str | None
    """The next page: a reference relative to the address of this one; null where there are no more."""
    facets: dict[str, list[ChoiceBody]] | None
    """`brand`, `category`, `price`; null on a later page, where they would be the same."""
    did_you_mean: str | None


class Suggestion(BaseModel):
    """Something there is whose words begin so, and how many products that is."""

    text: str
    kind: Literal["category", "brand", "product"]
    count: int


class StoreBody(BaseModel):
    """A store, and how far away it is as the crow flies."""

    id: str
    name: str
    city: str
    latitude: float
    longitude: float
    kilometres: float


class WorkBody(BaseModel):
    """How a rebuild or a check stands. `differing` names the first hundred of each kind, `counts` has all of them."""

    what: str
    state: State
    begun_at: datetime
    ended_at: datetime | None
    products: int
    error: str
    index: str
    counts: dict[Difference, int]
    differing: dict[Difference, list[str]]
    mended: int


class Api:
    """The routes over these; `breaker` stands before what shoppers ask."""

    def __init__(self, index: Index, stores: Stores, upkeep: Upkeep, breaker: CircuitBreaker) -> None:
        self._index, self._stores, self._upkeep, self._breaker = index, stores, upkeep, breaker

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["search"])
        router.get("/search")(self.search)
        router.get("/search/suggestions")(self.suggestions)
        router.get("/stores")(self.stores)
        router.post("/search/rebuilds", status_code=202, responses=raises(409))(self.rebuild)
        router.get("/search/rebuilds/last", responses=raises(404))(self.rebuilt)
        router.post("/search/checks", status_code=202, responses=raises(409))(self.check)
        router.get("/search/checks/last", responses=raises(404))(self.checked)
        return router

    async def search(
        self,
        request: Request,
        q: Annotated[str, Query(max_length=LONGEST, description="words, in any field; empty: everything")] = "",
        brand: Values = [],  # noqa: B006 - FastAPI's default, never written to
        category: Values = [],  # noqa: B006
        price: Annotated[list[str], Query(max_length=50, description=f"of {', '.join(RANGES)}, in cents")] = [],  # noqa: B006
        attribute: Annotated[list[str], Query(max_length=50, description="such as `colour:navy`")] = [],  # noqa: B006
        in_stock: bool = False,  # noqa: FBT001, FBT002, RUF100 - a parameter of the query
        order: Order = Order.RELEVANCE,
        after: Annotated[str | None, Query(description="from `next`")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> SearchPage:
        """Products by words, what is chosen, and what is in stock.

        Several values of one facet are alternatives, facets together must all fit. A page begins behind the last
        product of the one before: ordered by price, none comes twice or is left out because others come and go; by
        relevance that holds as long as nothing changes what the words are worth.
        """
        wanted = Wanted(
            text=q.strip(),
            chosen={"brand": frozenset(brand), "category": frozenset(category), "price": _ranges(price)},
            attributes=_attributes(attribute),
            in_stock=in_stock,
            order=order,
        )
        behind = _behind(after, order) if after else None
        async with self._asked(request):
            found = await self._breaker.call(self._index.page, wanted, limit=limit, after=behind)
        more = None
        if found.after is not None:
            more = f"?{request.url.include_query_params(after=token(order, *found.after)).query}"
        return SearchPage(
            items=[_product(document) for document in found.documents],
            total=found.total,
            next=more,
            facets=None if found.counts is None else _facets(found.counts, wanted),
            did_you_mean=found.meant,
        )

    async def suggestions(
        self,
        request: Request,
        q: Annotated[str, Query(min_length=2, max_length=50, description="what was typed until now")],
        limit: Annotated[int, Query(ge=1, le=20)] = 8,
    ) -> list[Suggestion]:
        """What there is whose words begin as those that were typed: categories, brands, products."""
        async with self._asked(request):
            found = await self._breaker.call(self._index.begun, q, limit=limit)
        return [Suggestion(text=one.text, kind=one.kind, count=one.count) for one in found]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def stores(
        self,
        request: Request,
        latitude: Annotated[float, Query(ge=-90, le=90)],
        longitude: Annotated[float, Query(ge=-180, le=180)],
        kilometres: Annotated[float, Query(gt=0, le=20_100, description="how far away at most")] = 500.0,
        limit: Annotated[int, Query(ge=1, le=50)] = 5,
    ) -> list[StoreBody]:
        """Where something can be fetched, the nearest first."""
        async with self._asked(request):
            found = await self._breaker.call(self._stores.near, latitude, longitude, limit=limit, kilometres=kilometres)
        return [
            StoreBody(
                id=one.id,
                name=one.name,
                city=one.city,
                latitude=one.latitude,
                longitude=one.longitude,
                kilometres=one.kilometres,
            )
            for one in found
        ]

    async def rebuild(self, response: Response) -> WorkBody:
        """Fill an index anew, from the catalog, and have it searched in place of this one; meanwhile this one is."""
        try:
            return _begun(self._upkeep.rebuild(), response)
        except Busy as error:
            raise Problem(409, "busy", str(error)) from error

    async def rebuilt(self) -> WorkBody:
        """How the last rebuild stands."""
        return self._last("rebuild")

    async def check(
        self,
        response: Response,
        mend: bool = True,  # noqa: FBT001, FBT002, RUF100 - a parameter of the query
    ) -> WorkBody:
        """Hold the index beside the catalog and inventory, and mend what differs.

        What is `ahead` of the catalog, or differs at the same version, only a rebuild mends: versions decide.
        """
        try:
            return _begun(self._upkeep.check(mend=mend), response)
        except Busy as error:
            raise Problem(409, "busy", str(error)) from error

    async def checked(self) -> WorkBody:
        """How the last check stands."""
        return self._last("check")

    def _last(self, what: str) -> WorkBody:
        if not (work := self._upkeep.last.get(what)):
            raise Problem(404, f"no-{what}", f"no {what} was begun since this process was started")
        return _body(work)

    @asynccontextmanager
    async def _asked(self, request: Request) -> AsyncIterator[None]:
        """For no longer than the caller waits. Raises `Problem` where OpenSearch does not answer."""
        try:
            async with deadline(from_headers(request.headers)):
                yield
        except (Unreachable, TimeoutError) as error:
            detail = "the search does not answer now; the catalog's lists do"
            raise Problem(503, "unavailable", detail, retry_after=SOON) from error


def _ranges(names: list[str]) -> frozenset[str]:
    if unknown := sorted(set(names) - RANGES.keys()):
        raise Problem(422, "invalid", f"price: {unknown[0]!r} is none of {', '.join(RANGES)}")
    return frozenset(names)


def _attributes(given: list[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not (name and colon and value):
            raise Problem(422, "invalid", f"attribute: {one!r} is no name, colon and value, such as colour:navy")
        found[name] = found.get(name, frozenset()) | {value}
    return found


def _behind(after: str, order: Order) -> tuple[float, str]:
    of, first, sku = place(after, tuple[str, float, str])
    if of != order:
        raise Problem(422, "invalid", f"after: that page is ordered by {of!r}, this one by {order!r}")
    return first, sku


def _product(document: Document) -> FoundProduct:
    details, price = document.details, document.price
    assert details, "what is listed is described"
    assert price, "and priced"
    return FoundProduct(
        sku=document.sku,
        name=details.name,
        description=details.description,
        brand=details.brand,
        category=details.category,
        attributes=details.attributes,
        price=MoneyBody.of(price),
        in_stock=bool(document.available),
        version=document.version,
    )


def _facets(counts: Any, wanted: Wanted) -> dict[str, list[ChoiceBody]]:
    return {
        facet: [
            ChoiceBody(value=one.value, count=one.count, chosen=one.chosen)
            for one in choices(facet, counts.get(facet, {}), wanted.chosen.get(facet, frozenset()))
        ]
        for facet in FACETS
    }


def _begun(work: Work, response: Response) -> WorkBody:
    response.headers["Location"] = f"/v1/search/{work.what}s/last"
    return _body(work)


def _body(work: Work) -> WorkBody:
    return WorkBody(
        what=work.what,
        state=work.state,
        begun_at=work.begun_at,
        ended_at=work.ended_at,
        products=work.products,
        error=work.error,
        index=work.index,
        counts=work.counts,
        differing=work.differing,
        mended=work.mended,
    )
