"""The provider's routes: money is moved under a key, signed; how it misbehaves may be said by anybody."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import BaseModel, Field

from faultline.shop.bodies import MoneyBody, PriceBody
from faultline.shop.contracts import Money
from faultline.shop.errors import Problem
from faultline.shop.problems import raises
from faultline.shop.provider.domain import Fault, KeyReused, Misbehaviour, Move, Struck, UnknownCharge, written
from faultline.shop.provider.store import Moves
from faultline.shop.signatures import SIGNED, Signatures

Key = Annotated[str, Path(min_length=1, max_length=200)]
NewKey = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=200)]

ASKING = frozenset({Fault.GONE, Fault.SLOW})
CHARGING = ASKING | {Fault.DECLINE, Fault.SILENT, Fault.TWICE, Fault.LATE}
REFUNDING = ASKING | {Fault.DECLINE_REFUND, Fault.SILENT, Fault.TWICE, Fault.LATE}


class NewCharge(BaseModel):
    """What is to be taken; the card is any text, and is not kept."""

    amount: PriceBody
    card: str = Field(default="", max_length=100)


class NewRefund(BaseModel):
    """All of the charge of that key is to be given back."""

    charge: str = Field(min_length=1, max_length=200)


class Outcome(BaseModel):
    """What has become of a charge or a refund, for good; `code` says why it was declined."""

    key: str
    status: Literal["succeeded", "declined"]
    code: str
    amount: MoneyBody
    reference: str


class Line(BaseModel):
    """Money that was moved."""

    position: int
    key: str
    reference: str
    amount: MoneyBody
    at: datetime


class Page(BaseModel):
    """Lines of the statement, in order; those that follow come after the last position."""

    lines: list[Line]


class Strike(BaseModel):
    """When a fault strikes: at the `next` so many requests, then at a `share` of them, chosen by `seed`."""

    next: int = Field(default=0, ge=0, strict=True)
    share: float = Field(default=0.0, ge=0.0, le=1.0, strict=True)
    seed: int = Field(default=0, strict=True)
    seconds: float = Field(default=0.0, ge=0.0, le=3600.0, strict=True)


class Api:
    """The routes over the moves."""

    def __init__(self, moves: Moves, signatures: Signatures) -> None:
        self._moves = moves
        self._signatures = signatures

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["provider"])
        signed = [Depends(self._signed), SIGNED]
        router.post("/charges", dependencies=signed, responses=raises(409))(self.charge)
        router.get("/charges/{key}", dependencies=signed, responses=raises(404))(self.find_charge)
        router.post("/refunds", dependencies=signed, responses=raises(404, 409))(self.refund)
        router.get("/refunds/{key}", dependencies=signed, responses=raises(404))(self.find_refund)
        router.get("/statement", dependencies=signed)(self.statement)
        router.put("/behaviour")(self.behave)
        router.get("/behaviour")(self.behaviour)
        return router

    async def _signed(self, request: Request) -> None:
        path: bytes = request.scope["raw_path"]
        query: bytes = request.scope["query_string"]
        target = (path + b"?" + query if query else path).decode()
        self._signatures.require(request.method, target, await request.body(), request.headers)

    async def charge(self, new: NewCharge, key: NewKey) -> Outcome:
        """Take money. The same key: the same answer, and no more money; with another body 409."""
        struck = await self._struck(CHARGING)
        amount = Money(new.amount.cents, new.amount.currency)
        try:
            move = await self._moves.charge(key, amount, new.model_dump(exclude={"card"}), struck)
        except KeyReused as error:
            raise Problem(409, "key-reused", str(error)) from error
        return await _answered(move, struck)

    async def refund(self, new: NewRefund, key: NewKey) -> Outcome:
        """Give all of a charge back, once. 404 if there was none."""
        struck = await self._struck(REFUNDING)
        try:
            move = await self._moves.refund(key, new.charge, new.model_dump(), struck)
        except KeyReused as error:
            raise Problem(409, "key-reused", str(error)) from error
        except UnknownCharge as error:
            raise Problem(404, "unknown-charge", str(error)) from error
        return await _answered(move, struck)

    async def find_charge(self, key: Key) -> Outcome:
        """What has become of it. 404: it has not come here, yet."""
        return await self._find("charge", key)

    async def find_refund(self, key: Key) -> Outcome:
        """Likewise."""
        return await self._find("refund", key)

    async def statement(
        self, after: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 1000
    ) -> Page:
        """What was moved, line by line; lines are only ever added, at the end."""
        await self._struck(ASKING)
        rows = await self._moves.lines(after, limit)
        return Page(
            lines=[
                Line(
                    position=position,
                    key=key,
                    reference=reference,
                    amount=MoneyBody(cents=cents, currency=currency),
                    at=at,
                )
                for position, key, reference, cents, currency, at in rows
            ]
        )

    async def behave(self, faults: dict[Fault, Strike]) -> dict[Fault, Strike]:
        """Misbehave like this from now on; `{}`: behave. It is kept over a restart."""
        await self._moves.behave({fault: Misbehaviour(**one.model_dump()) for fault, one in faults.items()})
        return await self.behaviour()

    async def behaviour(self) -> dict[Fault, Strike]:
        """How it misbehaves, and at how many requests yet."""
        return {fault: Strike(**asdict(one)) for fault, one in (await self._moves.behaviour()).items()}

    async def _find(self, kind: str, key: str) -> Outcome:
        await self._struck(ASKING)
        if (move := await self._moves.find(kind, key)) is None:
            raise Problem(404, f"unknown-{kind}", f"there is no {kind} {key}")
        return _body(move)

    async def _struck(self, faults: frozenset[Fault]) -> Struck:
        struck = await self._moves.strikes(faults)
        if Fault.GONE in struck:
            raise Problem(503, "gone", "this is how it was told to behave", retry_after=1.0)
        await asyncio.sleep(struck.seconds(Fault.SLOW))
        return struck


async def _answered(move: Move, struck: Struck) -> Outcome:
    await asyncio.sleep(struck.seconds(Fault.SILENT))
    return _body(move)


def _body(move: Move) -> Outcome:
    return Outcome.model_validate(written(move))
