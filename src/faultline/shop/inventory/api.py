"""The HTTP side of inventory: what is there, and what comes in."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from faultline.shop.contracts import Line
from faultline.shop.errors import Problem
from faultline.shop.inventory.domain import FlashSale, Refused
from faultline.shop.inventory.store import Stock
from faultline.shop.problems import raises

Key = Annotated[str, Path(min_length=1, max_length=100)]


class Levels(BaseModel):
    """How many of a product there are; `received + returned = reserved + committed + available`."""

    sku: str
    received: int
    returned: int
    reserved: int
    committed: int
    available: int


class Receipt(BaseModel):
    """How many have come."""

    quantity: int = Field(ge=1, le=10**9, strict=True)


class NewSale(BaseModel):
    """How many are set aside for it."""

    units: int = Field(ge=1, le=10**6, strict=True)


class Sale(BaseModel):
    """How a flash sale stands."""

    sku: str
    units: int
    sold: int


class Api:
    """The routes over the stock."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["inventory"])
        router.get("/stock")(self.several)
        router.get("/stock/{sku}", responses=raises(404))(self.levels)
        router.put("/stock/{sku}/receipts/{receipt}")(self.receive)
        router.put("/flash-sales/{sku}", responses=raises(409))(self.open_sale)
        router.get("/flash-sales/{sku}", responses=raises(404))(self.sale)
        return router

    async def levels(self, sku: Key) -> Levels:
        """How many of a product there are."""
        found = await self._stock.levels([sku])
        if not found:
            raise Problem(404, "unknown-product", f"there never was a {sku} in stock")
        return Levels(**asdict(found[0]))

    async def several(self, sku: Annotated[list[str], Query(min_length=1, max_length=100)]) -> list[Levels]:
        """How many of each there are, at one moment; what never was in stock is left out."""
        return [Levels(**asdict(level)) for level in await self._stock.levels(sku)]

    async def receive(self, sku: Key, receipt: Key, came: Receipt) -> Levels:
        """Put what has come into the stock. Repeating it is safe: a receipt counts once."""
        await self._stock.receive([Line(sku, came.quantity)], receipt)
        return await self.levels(sku)

    async def open_sale(self, sku: Key, new: NewSale) -> Sale:
        """Set units of the stock aside for a flash sale. Repeating it is safe: one that runs is not changed."""
        try:
            return _sale(await self._stock.open_sale(sku, new.units))
        except Refused as error:
            raise Problem(409, "too-few", str(error)) from error

    async def sale(self, sku: Key) -> Sale:
        """How it stands."""
        found = await self._stock.sale(sku)
        if found is None:
            raise Problem(404, "unknown-sale", f"there is no flash sale of {sku}")
        return _sale(found)


def _sale(found: FlashSale) -> Sale:
    return Sale(sku=found.sku, units=found.units, sold=found.sold)
