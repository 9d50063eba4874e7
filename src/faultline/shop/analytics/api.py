"""The routes and bodies of analytics; all of them are for operators."""

from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from faultline.patterns import NotTried
from faultline.shop.analytics.backfill import DONE, Backfill, Backfills
from faultline.shop.analytics.domain import By, Difference, difference
from faultline.shop.analytics.rpc import Sources
from faultline.shop.analytics.store import Reports
from faultline.shop.errors import Problem
from faultline.shop.problems import raises

From = Annotated[date, Query(alias="from", description="the first day, UTC")]
To = Annotated[date, Query(description="the last day, UTC")]

SOON = 1.0  # seconds after which payment may be asked again
MOST_DAYS = timedelta(days=3660)


class SalesRow(BaseModel):
    """What was sold and given back of one day, product, category or brand; `net_cents` is what is left."""

    key: str
    currency: str
    quantity: int
    cents: int
    returned: int
    returned_cents: int
    net_cents: int


class SalesBody(BaseModel):
    """Sales, and how far each source has come: what happened later may be missing."""

    items: list[SalesRow]
    watermarks: dict[str, AwareDatetime]


class ReopeningBody(BaseModel):
    """Why a day that was closed is another now."""

    at: str
    reason: str
    event: str


class DayBody(BaseModel):
    """A day; null while it is open."""

    day: date
    closed_at: AwareDatetime | None
    reopened: list[ReopeningBody]


class DifferenceBody(BaseModel):
    """An order of which facts and ledger do not say the same on that day, in cents; null: nothing."""

    order: str
    reason: Difference
    sold: int | None
    """Facts: sales less returns."""
    heard: int | None
    """Payment's events: captured less refunded."""
    moved: int | None
    """Payment's ledger, asked now."""


class ReconciliationBody(BaseModel):
    """A day by the facts, by payment's events, and by its ledger; of an open day some orders are on their way."""

    day: date
    closed: bool
    sold: int
    heard: int
    moved: int
    differences: list[DifferenceBody]


class NewBackfill(BaseModel):
    """Which days are to be built again: all, where there is no first or last one."""

    model_config = ConfigDict(extra="forbid")

    first: date | None = Field(default=None, alias="from")
    last: date | None = Field(default=None, alias="to")
    history: bool = False
    """Ask orders, payment and the catalog first for all that they know of."""


class BackfillBody(BaseModel):
    """How far a backfill is: at which stage; how many events were new, how many days are done and left."""

    id: int
    history: bool
    first: date | None = Field(serialization_alias="from")
    last: date | None = Field(serialization_alias="to")
    stage: str
    events: int
    days: int
    days_left: int
    asked_at: AwareDatetime
    ended_at: AwareDatetime | None
    error: str
    """What is in the way right now, if anything is."""


class Api:
    """The routes over these."""

    def __init__(self, reports: Reports, backfills: Backfills, sources: Sources) -> None:
        self._reports, self._backfills, self._sources = reports, backfills, sources

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1/analytics", tags=["analytics"])
        router.get("/sales")(self.sales)
        router.get("/days")(self.days)
        router.get("/reconciliation")(self.reconcile)
        router.post("/backfills", status_code=202)(self.begin)
        router.get("/backfills/{backfill}", responses=raises(404))(self.backfill)
        return router

    async def sales(self, first: From, to: To, by: By = By.DAY) -> SalesBody:
        """What was sold, on the days it was confirmed, less what was given back, on the days that was closed.

        Products count as what they were when they were sold. All sums are of one moment.
        """
        _require_range(first, to)
        watermarks = await self._reports.watermarks()  # first: the sales may tell of more, never of less
        rows = await self._reports.sales(by, first, to)
        return SalesBody(
            items=[
                SalesRow(
                    key=row.key,
                    currency=row.currency,
                    quantity=row.quantity,
                    cents=row.cents,
                    returned=row.returned,
                    returned_cents=row.returned_cents,
                    net_cents=row.cents - row.returned_cents,
                )
                for row in rows
            ],
            watermarks=watermarks,
        )

    async def days(self, first: From, to: To) -> list[DayBody]:
        """Which days are closed, and which were opened again, when, why, and by which event."""
        _require_range(first, to)
        return [
            DayBody(
                day=one.day,
                closed_at=one.closed_at,
                reopened=[ReopeningBody(at=at, reason=reason, event=event) for at, reason, event in one.reopened],
            )
            for one in await self._reports.days(first, to)
        ]

    async def reconcile(self, day: date) -> ReconciliationBody:
        """Compare each order of the day with payment's events and with its ledger. 503 while payment is away."""
        try:
            moved = await self._sources.moved(day)
        except (OSError, NotTried) as error:
            raise Problem(503, "unavailable", f"payment: {error}", retry_after=SOON) from error
        sums = await self._reports.sums(day, moved)
        found = {order: reason for order, one in sums.items() if (reason := difference(one))}
        return ReconciliationBody(
            day=day,
            closed=any(one.closed_at for one in await self._reports.days(day, day)),
            sold=sum(one.sold or 0 for one in sums.values()),
            heard=sum(one.heard or 0 for one in sums.values()),
            moved=sum(moved.values()),
            differences=[
                DifferenceBody(
                    order=order,
                    reason=reason,
                    sold=sums[order].sold,
                    heard=sums[order].heard,
                    moved=sums[order].moved,
                )
                for order, reason in found.items()
            ],
        )

    async def begin(self, new: NewBackfill, response: Response) -> BackfillBody:
        """Build days again, while everything goes on; how far it is, is at `Location`. Asking twice does no harm."""
        if new.first and new.last and new.first > new.last:
            raise Problem(422, "invalid", f"from {new.first} to {new.last} there is no day")
        one = await self._backfills.add(history=new.history, first=new.first, last=new.last)
        response.headers["Location"] = f"/v1/analytics/backfills/{one.id}"
        return await self._told(one)

    async def backfill(self, backfill: Annotated[int, Path(ge=1, lt=2**63)]) -> BackfillBody:
        """How far it is."""
        if (one := await self._backfills.find(backfill)) is None:
            raise Problem(404, "unknown-backfill", f"there is no backfill {backfill}")
        return await self._told(one)

    async def _told(self, one: Backfill) -> BackfillBody:
        return BackfillBody(
            id=one.id,
            history=one.history,
            first=one.first,
            last=one.last,
            stage=DONE if one.ended_at else one.stage,
            events=one.events,
            days=one.days,
            days_left=await self._backfills.left(one),
            asked_at=one.asked_at,
            ended_at=one.ended_at,
            error=one.error,
        )


def _require_range(first: date, to: date) -> None:
    if first > to or to - first > MOST_DAYS:
        raise Problem(422, "invalid", f"from {first} to {to}: ask for 1 to {MOST_DAYS.days} days")
