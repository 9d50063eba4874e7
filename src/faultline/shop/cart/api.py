"""The cart's routes and bodies."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request
from pydantic import BaseModel, Field

from faultline.patterns import DeadlineExceeded, deadline
from faultline.patterns.deadline import from_headers
from faultline.shop.bodies import MoneyBody
from faultline.shop.callers import GUEST_USER, User
from faultline.shop.cart import domain
from faultline.shop.cart.domain import CartFull, Found, GuestHasGone, Known, Standing
from faultline.shop.cart.rpc import Catalog
from faultline.shop.cart.store import Carts, Products
from faultline.shop.contracts import Money
from faultline.shop.errors import Problem
from faultline.shop.problems import raises

Guest = Annotated[str, Header(alias=GUEST_USER, min_length=1, max_length=100, description="who it was until now")]
Sku = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="such as `hat-7`")]

PRICES = 1.2  # seconds to learn what things cost, and half of what the caller still waits at most


class Quantity(BaseModel):
    """How many of it the cart is to have."""

    quantity: int = Field(ge=1, le=domain.MOST, strict=True)


class LineBody(BaseModel):
    """So many of a product. `age`: seconds since the catalog last said what it costs; what is not known is null."""

    sku: str
    quantity: int
    standing: Standing
    name: str | None
    unit: MoneyBody | None
    sum: MoneyBody | None
    age: float | None


class CartBody(BaseModel):
    """A cart as it would be paid now; `total` is null where a price is unknown, or they are in several currencies."""

    lines: list[LineBody]
    total: MoneyBody | None


class Api:
    """The routes over these."""

    def __init__(self, carts: Carts, products: Products, catalog: Catalog) -> None:
        self._carts, self._products, self._catalog = carts, products, catalog

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["cart"])
        router.get("/cart")(self.cart)
        router.delete("/cart", status_code=204)(self.clear)
        router.post("/cart/merges", responses=raises(409))(self.merge)
        router.put("/cart/lines/{sku}", responses=raises(409))(self.put)
        router.delete("/cart/lines/{sku}", status_code=204)(self.remove)
        return router

    async def cart(self, user: User, request: Request) -> CartBody:
        """Your cart, with what things cost.

        While the catalog does not answer they cost what they did last: `last-known`, and how long ago that was.
        """
        quantities = await self._carts.quantities(user)
        lines = domain.shown(quantities, await self._found(sorted(quantities), request))
        shown = [
            LineBody(
                sku=line.sku,
                quantity=line.quantity,
                standing=line.standing,
                name=line.name,
                unit=_amount(line.unit),
                sum=_amount(line.sum),
                age=line.age,
            )
            for line in lines
        ]
        return CartBody(lines=shown, total=_amount(domain.total(lines)))

    async def put(self, sku: Sku, wanted: Quantity, user: User, request: Request) -> CartBody:
        """Have so many of it in your cart; repeating it is safe.

        409 if that were a line too many, or you are a guest who has logged in; 422 if there is no such product. While
        the catalog does not answer anything is taken, for the order will not be.
        """
        found = (await self._found([sku], request)).get(sku)
        if not domain.sellable(found):
            raise Problem(422, "unsellable", f"there is no product {sku}")
        try:
            await self._carts.put(user, sku, wanted.quantity)
        except CartFull as error:
            raise Problem(409, "cart-full", str(error)) from error
        except GuestHasGone as error:
            raise Problem(409, "guest-has-gone", str(error)) from error
        return await self.cart(user, request)

    async def merge(self, user: User, guest: Guest, request: Request) -> CartBody:
        """Add what you had in your cart as a guest to your account's; repeating it is safe, and adds nothing twice.

        409 if that guest's cart has become another account's.
        """
        try:
            await self._carts.merge(guest, user)
        except GuestHasGone as error:
            raise Problem(409, "guest-has-gone", str(error)) from error
        return await self.cart(user, request)

    async def remove(self, sku: Sku, user: User) -> None:
        """Have none of it; repeating it is safe."""
        await self._carts.remove(user, sku)

    async def clear(self, user: User) -> None:
        """Have nothing in your cart; repeating it is safe."""
        await self._carts.clear(user)

    async def _found(self, skus: list[str], request: Request) -> dict[str, Found]:
        known: dict[str, Found] = {**await self._products.known(skus)}
        doubtful = [sku for sku in skus if not _fresh(known.get(sku))]
        left = from_headers(request.headers)
        try:
            async with deadline(PRICES if left is None else min(PRICES, left / 2)):
                for sku, found in zip(doubtful, await asyncio.gather(*map(self._asked, doubtful)), strict=True):
                    known[sku] = domain.newer(known.get(sku), found)
        except DeadlineExceeded:  # what is known is better than no answer
            pass
        return known

    async def _asked(self, sku: str) -> Found:
        found = await self._catalog.product(sku)
        if isinstance(found, Known):
            await self._products.learn(sku, found.version, name=found.name, unit=found.unit)
        return found


def _fresh(known: Found) -> bool:
    return isinstance(known, Known) and known.fresh


def _amount(money: Money | None) -> MoneyBody | None:
    return MoneyBody.of(money) if money else None
