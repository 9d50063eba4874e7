"""The routes and bodies of orders."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from itertools import count
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import StreamingResponse

from faultline.patterns import START, NotTried, Position, Projector, VersionConflict, deadline
from faultline.patterns.deadline import from_headers
from faultline.shop.bodies import MoneyBody, place, token
from faultline.shop.callers import Asking, Caller, User
from faultline.shop.contracts import Line, Money
from faultline.shop.errors import Problem
from faultline.shop.orders import domain
from faultline.shop.orders.domain import Order, Status
from faultline.shop.orders.projections import Changes, MyOrders, Summary
from faultline.shop.orders.rpc import Catalog
from faultline.shop.orders.saga import Checkouts
from faultline.shop.orders.store import Orders, folded, happened
from faultline.shop.problems import raises

Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=100)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Id = Annotated[str, Path(min_length=1, max_length=100)]

EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "the order's version"},
        "event": {"const": "order"},
        "data": {"type": "string", "description": "the order, as JSON"},
    },
    "required": ["id", "event", "data"],
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": EVENT}}}}

ATTEMPTS = 5  # to record something of an order, while others do
PATIENCE = 5.0  # seconds for a request, unless its caller waits less
HEARTBEAT = 1.0  # seconds after which a stream says that it lives, and looks by itself


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


class Wanted(BaseModel):
    """So many of a product."""

    sku: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    quantity: int = Field(ge=1, le=domain.MOST, strict=True)


class NewOrder(BaseModel):
    """What is to be bought."""

    lines: list[Wanted] = Field(min_length=1, max_length=domain.MOST_LINES)


class LineBody(BaseModel):
    """So many of a product, at what one cost when it was ordered."""

    sku: str
    quantity: int
    unit: MoneyBody


class SummaryBody(BaseModel):
    """An order in a list; `reason` says why it was cancelled, or why its return waits for a person."""

    id: str
    status: Status
    reason: str
    total: MoneyBody
    placed_at: AwareDatetime


class OrderBody(SummaryBody):
    """An order as it stands."""

    lines: list[LineBody]


class OrderPage(BaseModel):
    """Some orders; `next` is where there may be more, and null where there are none."""

    items: list[SummaryBody]
    next: str | None
    """The next page: a reference relative to the address of this one."""


class HappenedBody(BaseModel):
    """One of the things that have happened to an order."""

    version: int
    type: str
    at: AwareDatetime
    data: dict[str, Any]


class History(BaseModel):
    """What had happened to an order by a moment, and how it stood then; null where it was not placed yet."""

    order: OrderBody | None
    events: list[HappenedBody]


class SaidBody(BaseModel):
    """An event as it was told to others: its id, and its time, are those that were heard."""

    id: str
    type: str
    subject: str
    sequence: int
    time: AwareDatetime
    data: dict[str, Any]


class Log(BaseModel):
    """Some of what was told; `next` is what to ask for more `after`, and null where there is none for now."""

    items: list[SaidBody]
    next: str | None


class Rebuilt(BaseModel):
    """How many events it was built from."""

    events: int


class CheckoutBody(BaseModel):
    """Where a checkout is: at which of its steps (from 0), in which direction."""

    status: str
    direction: str
    step: int
    attempts: int
    error: str


class Api:
    """The routes over these."""

    def __init__(
        self,
        *,
        orders: Orders,
        catalog: Catalog,
        checkouts: Checkouts,
        mine: MyOrders,
        changes: Changes,
        projector: Projector,
    ) -> None:
        self._orders, self._catalog, self._checkouts = orders, catalog, checkouts
        self._mine, self._changes, self._projector = mine, changes, projector

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["orders"])
        router.post("/orders", status_code=202, responses=raises(409))(self.place)
        router.get("/orders")(self.pages)
        router.get("/orders/{order}", responses=raises(404))(self.order)
        router.get("/orders/{order}/history", responses=raises(404))(self.history)
        router.get("/orders/{order}/stream", response_class=EventStream, responses=STREAM | raises(404))(self.stream)
        router.put("/orders/{order}/return", status_code=202, responses=raises(404, 409))(self.give_back)
        router.post("/projections/my-orders/rebuilds")(self.rebuild)
        router.get("/log")(self.log)
        router.get("/checkouts")(self.checkouts)
        router.get("/checkouts/{order}", responses=raises(404))(self.checkout)
        router.post("/checkouts/{order}/resumptions", status_code=204, responses=raises(409))(self.resume)
        return router

    async def place(self, new: NewOrder, user: User, key: Key, request: Request, response: Response) -> OrderBody:
        """Order these at today's prices; what becomes of it is at `Location`.

        Repeating it with its key is safe, and gives the same order. The same key for something else is a 409.
        """
        try:
            async with deadline(from_headers(request.headers)), deadline(PATIENCE):
                found = await self._placed(user, key, new)
        except (ConnectionError, TimeoutError, NotTried) as error:
            detail = f"{error}: ask again, with the same key"
            raise Problem(503, "unavailable", detail, retry_after=1.0) from error
        except domain.Unsellable as error:
            raise Problem(422, "unsellable", str(error)) from error
        except domain.KeyReused as error:
            raise Problem(409, "key-reused", str(error)) from error
        response.headers["Location"] = f"/v1/orders/{found.id}"
        return _body(found)

    async def _placed(self, user: str, key: str, new: NewOrder) -> Order:
        lines = domain.wanted(Line(line.sku, line.quantity) for line in new.lines)
        found = (await self._orders.load(domain.named(user, key))).state
        if found is None:
            placed = domain.placed(user, key, lines, await self._prices(lines))
            await self._orders.place(placed, begin=lambda tx: self._checkouts.begin(placed, tx=tx))
            found = (await self._orders.load(placed.order)).state
            assert found
        return domain.repeated(found, lines)

    async def _prices(self, lines: tuple[Line, ...]) -> dict[str, Money]:
        asked = (self._catalog.price(line.sku) for line in lines)
        found = await asyncio.gather(*asked, return_exceptions=True)  # no question is left behind
        prices: dict[str, Money] = {}
        for line, price in zip(lines, found, strict=True):
            if isinstance(price, BaseException):
                raise price
            if price is None:
                raise domain.Unsellable(f"there is no product {line.sku}")
            prices[line.sku] = price
        return prices

    async def pages(
        self,
        request: Request,
        user: User,
        after: Annotated[str | None, Query(description="from `next`")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> OrderPage:
        """Your orders, the newest first, page by page; a moment behind the orders themselves."""
        found = await self._mine.page(user, after=_place(after) if after else None, limit=limit)
        more = None
        if len(found) == limit:
            url = request.url.include_query_params(after=token(found[-1].placed_at, found[-1].id))
            more = f"?{url.query}"  # relative: good behind any gateway
        return OrderPage(items=[_summary(one) for one in found], next=more)

    async def order(self, order: Id, caller: Asking) -> OrderBody:
        """Your order as it stands, never behind."""
        return _body((await self._known(order, caller))[0])

    async def _known(self, order: str, caller: Caller) -> tuple[Order, int]:
        loaded = await self._orders.load(order)
        if loaded.state is None or not caller.reaches(loaded.state.user):
            raise Problem(404, "unknown-order", f"you have no order {order}")
        return loaded.state, loaded.version

    async def history(
        self,
        order: Id,
        caller: Asking,
        until: Annotated[AwareDatetime | None, Query(description="as of this moment")] = None,
    ) -> History:
        """What has happened to your order, and how it stood then."""
        await self._known(order, caller)
        events = await self._orders.history(order, until=until)
        then = folded(events)
        happened = [
            HappenedBody(version=one.version, type=one.type, at=one.recorded_at, data=dict(one.data)) for one in events
        ]
        return History(order=_body(then) if then else None, events=happened)

    async def stream(self, order: Id, caller: Asking) -> EventStream:
        """Your order whenever it changes, as server-sent events, until it has come to its end."""
        await self._known(order, caller)
        told = self._told(order, caller)
        return EventStream(told, headers={"Cache-Control": "no-store"})

    async def _told(self, order: str, caller: Caller) -> AsyncIterator[str]:
        seen = 0
        with self._changes.of(order) as changed:
            while True:
                changed.clear()
                now, version = await self._known(order, caller)
                if version > seen:
                    seen = version
                    yield f"id: {version}\nevent: order\ndata: {_body(now).model_dump_json()}\n\n"
                if now.status.is_final:
                    return
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await changed.wait()
                except TimeoutError:
                    yield ":\n\n"

    async def give_back(self, order: Id, caller: Asking, response: Response) -> OrderBody:
        """Give back all of your order, for all of its money; what becomes of it is at `Location`.

        Asking twice is asking once. 409 for an order that was not confirmed.
        """
        await self._known(order, caller)
        for attempt in count(1):
            try:
                await self._orders.record(order, domain.return_requested)
                break
            except domain.NotReturnable as error:
                raise Problem(409, "not-returnable", str(error)) from error
            except VersionConflict as error:  # somebody else has asked at the same time
                if attempt == ATTEMPTS:
                    raise Problem(503, "busy", f"order {order} changes all the time", retry_after=1.0) from error
        response.headers["Location"] = f"/v1/orders/{order}"
        return _body((await self._known(order, caller))[0])

    async def rebuild(self) -> Rebuilt:
        """For operators: build the list of orders anew from the first event, while it is read and orders come in.

        The answer comes when it is in place. Whatever ends it before leaves everything as it was.
        """
        return Rebuilt(events=await self._projector.rebuild())

    async def log(self, after: Annotated[str, Query(max_length=200, description="from `next`")] = "") -> Log:
        """For services that come late: all that was ever told of orders, from the first event on."""
        found = await self._orders.log(Position(*place(after, tuple[int, int])) if after else START)
        items = [
            SaidBody(
                id=f"{event.type}/{one.stream.removeprefix('order-')}/{one.version}",
                type=event.type,
                subject=one.stream.removeprefix("order-"),
                sequence=one.version,
                time=one.recorded_at,
                data=msgspec.to_builtins(event),
            )
            for one in found
            if (event := happened(one)) and not isinstance(event, domain.Noted)
        ]
        return Log(items=items, next=token(found[-1].position.xid, found[-1].position.version) if found else None)

    async def checkouts(self) -> dict[str, int]:
        """For operators: how many checkouts there are of each status. Nobody but you gets those out that are stuck."""
        return {str(status): count for status, count in (await self._checkouts.counts()).items()}

    async def checkout(self, order: Id) -> CheckoutBody:
        """For operators: where an order's checkout is, and what went wrong last."""
        try:
            told = await self._checkouts.told(order)
        except LookupError as error:
            raise Problem(404, "unknown-order", str(error)) from error
        direction, step = told.place
        return CheckoutBody(
            status=told.status, direction=direction, step=step, attempts=told.attempts, error=told.error
        )

    async def resume(self, order: Id) -> None:
        """For operators: try again what a checkout is stuck at, once that is repaired. 409 if it is not stuck."""
        if not await self._checkouts.resume(order):
            raise Problem(409, "not-stuck", f"the checkout of order {order} is not stuck")


def _summary(order: Order | Summary) -> SummaryBody:
    return SummaryBody(
        id=order.id,
        status=order.status,
        reason=order.reason,
        total=MoneyBody.of(order.total),
        placed_at=order.placed_at,
    )


def _body(order: Order) -> OrderBody:
    lines = [LineBody(sku=line.sku, quantity=line.quantity, unit=MoneyBody.of(line.unit)) for line in order.lines]
    return OrderBody(**dict(_summary(order)), lines=lines)


def _place(after: str) -> tuple[datetime, str]:
    return place(after, tuple[Moment, str])
