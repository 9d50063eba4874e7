"""The HTTP side of payment: captures, the provider's webhook, and whether the books agree."""

import logging
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime, BaseModel

from faultline.patterns import NotTried
from faultline.shop.bodies import MoneyBody
from faultline.shop.contracts import Money
from faultline.shop.errors import Problem
from faultline.shop.payment import domain
from faultline.shop.payment.domain import State
from faultline.shop.payment.rpc import Entry, Provider, moved_by
from faultline.shop.payment.store import Payments
from faultline.shop.problems import raises
from faultline.shop.signatures import SIGNED, Signatures

Order = Annotated[str, Path(min_length=1, max_length=100)]

SOON = 1.0  # seconds after which the provider may be asked again

WEBHOOK = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "key": {"type": "string"},
                    "status": {"enum": ["succeeded", "declined"]},
                    "code": {"type": "string"},
                    "amount": {"$ref": "#/components/schemas/MoneyBody"},
                    "reference": {"type": "string"},
                },
                "required": ["key", "status", "code", "amount", "reference"],
            }
        }
    },
}
"""It is read only once it is known who has written it, so FastAPI does not know of it."""

log = logging.getLogger(__name__)


class CaptureBody(BaseModel):
    """What has become of the capture of an order; `code` says why it was declined."""

    order: str
    state: State
    code: str
    amount: MoneyBody
    reference: str
    refund_code: str
    """Why it will not be given back, though that was asked for; it is for a person then."""


class TransactionBody(BaseModel):
    """A line of the ledger; `amount` is below zero where it was given back, `at` is its event's time, too."""

    id: str
    order: str
    at: AwareDatetime
    amount: MoneyBody


class TransactionPage(BaseModel):
    """Some of them; `next` is what to ask for more `after`, and null where there are none."""

    items: list[TransactionBody]
    next: str | None


class Difference(BaseModel):
    """A move of which the ledger and the statement do not say the same; null: nothing."""

    key: str
    ours: MoneyBody | None
    theirs: MoneyBody | None
    in_flight: bool
    """It is being resolved: the provider has moved it, and we have not heard of it yet."""


class Reconciliation(BaseModel):
    """How the ledger and the provider's statement compare, line by line."""

    lines: int
    differences: list[Difference]


class Api:
    """The routes over the payments."""

    def __init__(self, payments: Payments, provider: Provider, signatures: Signatures) -> None:
        self._payments = payments
        self._provider = provider
        self._signatures = signatures

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["payment"])
        router.get("/captures/{order}", responses=raises(404))(self.capture)
        router.post(
            "/webhooks/provider",
            status_code=204,
            dependencies=[SIGNED],
            responses=raises(422),
            openapi_extra={"requestBody": WEBHOOK},
        )(self.hear)
        router.get("/reconciliation")(self.reconcile)
        router.get("/transactions")(self.transactions)
        return router

    async def capture(self, order: Order) -> CaptureBody:
        """What has become of the money of an order. 404: nothing was asked for, yet."""
        found = await self._payments.find(order)
        if found is None:
            raise Problem(404, "unknown-capture", f"nothing is known of the money of order {order}")
        return CaptureBody(
            order=order,
            state=found.state,
            code=found.code,
            amount=MoneyBody.of(found.amount),
            reference=found.reference,
            refund_code=found.refund_code,
        )

    async def hear(self, request: Request) -> None:
        """The provider says what has become of a move. Acknowledged once it is entered, also if it was before."""
        body = await request.body()
        self._signatures.require("POST", request.url.path, body, request.headers)
        try:
            key, by = moved_by(body)
        except msgspec.MsgspecError as error:
            raise Problem(422, "invalid", str(error)) from error
        name = domain.moved(key)
        now = await self._payments.settle(*name, by) if name else None
        if now is None or (now.state is State.DECLINED and not by.code):
            log.error("money that nobody has asked for: see /v1/reconciliation", extra={"key": key})

    async def reconcile(self) -> Reconciliation:
        """Compare every line of the provider's statement with the ledger. It reads all of both."""
        before = await self._payments.booked()
        try:
            theirs = {line.key: line for line in await self._statement()}
        except (NotTried, OSError) as error:
            raise Problem(503, "unavailable", f"the provider: {error}", retry_after=SOON) from error
        ours = {**await self._payments.booked(), **before}
        keys = sorted(before.keys() | theirs.keys())  # what is booked since then is in a later statement
        differ = [key for key in keys if key not in theirs or ours.get(key) != theirs[key].amount]
        return Reconciliation(
            lines=len(theirs),
            differences=[await self._difference(key, ours.get(key), theirs.get(key)) for key in differ],
        )

    async def transactions(
        self,
        day: Annotated[date | None, Query(description="of that day only, UTC")] = None,
        after: Annotated[str, Query(max_length=200, description="from `next`")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    ) -> TransactionPage:
        """What the ledger says of the provider's account, line by line: for whoever compares, or comes late."""
        first = datetime.combine(day, time(), UTC) if day else None
        end = first + timedelta(days=1) if first else None
        found = await self._payments.transactions(first=first, end=end, after=after, limit=limit)
        lines = [
            TransactionBody(id=one.id, order=one.order, at=one.at, amount=MoneyBody.of(one.amount)) for one in found
        ]
        return TransactionPage(items=lines, next=lines[-1].id if len(lines) == limit else None)

    async def _statement(self) -> list[Entry]:
        lines: list[Entry] = []
        while page := await self._provider.statement(lines[-1].position if lines else 0):
            lines += page
        return lines

    async def _difference(self, key: str, ours: Money | None, theirs: Entry | None) -> Difference:
        name = domain.moved(key)
        found = await self._payments.find(name[0]) if name else None
        return Difference(
            key=key,
            ours=MoneyBody.of(ours) if ours else None,
            theirs=MoneyBody.of(theirs.amount) if theirs else None,
            in_flight=bool(name and found and not ours and found.next_move is name[1]),
        )
