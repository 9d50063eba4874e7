"""The checkout: from placed to confirmed, or back to cancelled. Read it from `Checkout.saga` on.

    place ──► reserve ──► capture ──► commit ──► refund ──► close
    cancel ◄─ release ◄── declined     (gRPC)     only what    confirmed; cancelled
              (gRPC)      the pivot:              was not      if it was refunded
                          command, reply          held any more

**Time.** Payment begins a capture within `PAY_WITHIN` seconds of the order or not at all: the command says so, so a
checkout that is late needs no guess about money, only payment's answer. What is reserved is held for longer than that
and than payment usually needs to find out. If it does expire before it is paid, the order is not sold: the money goes
back.

**Unknown.** A call that brings no answer is asked about by the order's id: `GetReservation`, `GET /v1/captures/ORDER`.
The reply to a command only ends the pause before the next question.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING

import grpc
from psycopg import OperationalError

from faultline.patterns import Away, Saga, Step, StepRefused
from faultline.shop.contracts import Capture, CaptureReplied, Line, Money, Refund, RefundReplied
from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.logs import request_id
from faultline.shop.orders.domain import Ended, Reason, cancelled, confirmed
from faultline.shop.orders.rpc import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

    from faultline.patterns import Orchestrator
    from faultline.patterns.orchestrator import Told
    from faultline.patterns.saga import Call, Data, Status
    from faultline.shop.contracts import OrderPlaced, Said
    from faultline.shop.messages import Handler
    from faultline.shop.orders.rpc import Inventory, Payment
    from faultline.shop.orders.store import Orders, Rule

PAY_WITHIN = 30.0  # seconds from the order until payment must have begun
RESOLVED_WITHIN = 300.0  # seconds that payment may take to find out what has become of what it has begun
HELD = 600.0  # seconds for which inventory holds what was reserved
assert HELD > PAY_WITHIN + RESOLVED_WITHIN, "it would be free again before it is known to be paid"
TOO_LATE = "too-late"  # payment's word for what it has not begun in time
LEASE = 2.5  # seconds after which another process goes on with a checkout whose process is silent
LONGEST_PAUSE = 2.0  # seconds between two questions to who does not answer
PATIENT = 1000  # attempts: time alone turns a checkout back


class Checkout:
    """The steps, over those whom they ask."""

    def __init__(self, orders: Orders, inventory: Inventory, payment: Payment) -> None:
        self._orders, self._inventory, self._payment = orders, inventory, payment
        self.saga = Saga(
            "checkout",
            version=1,
            within=PAY_WITHIN,
            steps=(
                Step("place", act=_placed, undo=_traced(self._cancel), attempts=PATIENT),
                Step(
                    "reserve",
                    act=_traced(self._reserve),
                    undo=_traced(self._release),
                    ask=_traced(self._reserved),
                    attempts=PATIENT,
                ),
                # Answered by messages, which wake the checkout up.
                Step(
                    "capture",
                    act=_traced(self._capture),
                    ask=_traced(self._captured),
                    kind="pivot",
                    base=LONGEST_PAUSE,
                ),
                Step("commit", act=_traced(self._commit), kind="retriable"),
                Step(
                    "refund",
                    act=_traced(self._refund),
                    ask=_traced(self._refunded),
                    kind="retriable",
                    base=LONGEST_PAUSE,
                ),
                Step("close", act=_traced(self._close), kind="retriable"),
            ),
        )

    async def _cancel(self, _key: str, data: Data) -> None:
        reason = Reason(data.get("reason", Reason.TOO_LATE))
        await self._end(data, lambda order: cancelled(order, reason))

    async def _reserve(self, _key: str, data: Data) -> None:
        lines = [Line(sku, quantity) for sku, quantity in data["lines"]]
        _held(await self._inventory.reserve(data["order"], lines, seconds=HELD))

    async def _reserved(self, _key: str, data: Data) -> Data | None:
        found = await self._inventory.reservation(data["order"])
        if isinstance(found, Refusal) and found.code is grpc.StatusCode.NOT_FOUND:
            return None
        _held(found)
        return {}

    async def _release(self, _key: str, data: Data) -> None:
        if isinstance(found := await self._inventory.release(data["order"]), Refusal):
            raise StepRefused(found.why)

    async def _capture(self, _key: str, data: Data) -> None:
        until = datetime.fromisoformat(data["until"])
        await self._orders.command(Capture(order=data["order"], amount=_total(data), until=until))
        raise TimeoutError("told to capture: not known yet")

    async def _captured(self, _key: str, data: Data) -> Data | None:
        found = await self._payment.capture(data["order"])
        if found is None:
            return None
        if found.state == "pending":
            raise TimeoutError("payment is at it")
        if found.state != "captured":
            reason = Reason.TOO_LATE if found.code == TOO_LATE else Reason.DECLINED
            raise StepRefused(f"the payment is {found.state}: {found.code}", told={"reason": reason})
        return {}

    async def _commit(self, _key: str, data: Data) -> Data:
        found = await self._inventory.commit(data["order"])
        return {"sold": not isinstance(found, Refusal)}

    async def _refund(self, _key: str, data: Data) -> None:
        if data["sold"]:
            return
        await self._orders.command(Refund(order=data["order"], amount=_total(data), reason=Reason.NOT_HELD))
        raise TimeoutError("told to refund: not known yet")

    async def _refunded(self, _key: str, data: Data) -> Data | None:
        if data["sold"]:
            return {}
        found = await self._payment.capture(data["order"])
        if found and found.refund_code:  # the money stays where it should not be: for a human
            raise StepRefused(f"the money will not go back: {found.refund_code}")
        return {} if found and found.state in {"refunded", "declined"} else None

    async def _close(self, _key: str, data: Data) -> None:
        await self._end(data, confirmed if data["sold"] else lambda order: cancelled(order, Reason.NOT_HELD))

    async def _end(self, data: Data, rule: Rule) -> None:
        try:
            await self._orders.record(data["order"], rule)
        except Ended as error:  # somebody else has ended it otherwise: for a human
            raise StepRefused(str(error)) from error


def begins(placed: OrderPlaced, now: datetime) -> Data:
    """What a checkout knows of its order from the start."""
    return {
        "order": placed.order,
        "lines": [(line.sku, line.quantity) for line in placed.lines],
        "cents": placed.total.cents,
        "currency": placed.total.currency,
        "until": (now + timedelta(seconds=PAY_WITHIN)).isoformat(),
        "correlation": request_id.get(),
    }


class Checkouts:
    """All checkouts, by their order's id."""

    def __init__(self, orchestrator: Orchestrator, saga: Saga) -> None:
        self._orchestrator, self._saga = orchestrator, saga

    async def begin(self, placed: OrderPlaced, *, tx: AsyncConnection) -> bool:
        """Begin the order's checkout in your transaction; False if it has begun before."""
        data = begins(placed, datetime.now(UTC))
        return await self._orchestrator.start(_name(placed.order), self._saga, data, tx=tx, done=1)

    async def counts(self) -> dict[Status, int]:
        """How many there are of each status. Watch `stuck`."""
        return await self._orchestrator.counts()

    async def told(self, order: str) -> Told:
        """Where it is. Raises `LookupError` for an order that was never placed."""
        return await self._orchestrator.told(_name(order))

    async def resume(self, order: str) -> bool:
        """Try again what it is stuck at; False if it is not."""
        return await self._orchestrator.resume(_name(order))

    def hears(self) -> Mapping[str, Handler]:
        """Payment's replies. A checkout that was woken twice asks twice, so this needs no inbox."""

        async def wake(reply: Said) -> None:
            assert isinstance(reply.data, CaptureReplied | RefundReplied)
            try:
                await self._orchestrator.wake(_name(reply.data.order))
            except OperationalError as error:  # PostgreSQL is away, which is no fault of the reply
                raise Away(str(error)) from error

        return dict.fromkeys((CaptureReplied.type, RefundReplied.type), wake)


def _name(order: str) -> str:
    return f"checkout-{order}"


async def _placed(_key: str, _data: Data) -> None:
    """It was, in the transaction in which its checkout began: done with the start."""


def _held(found: pb.Reservation | Refusal) -> None:
    """Raises `StepRefused` unless it is."""
    if isinstance(found, Refusal):
        raise StepRefused(found.why, told={"reason": Reason.OUT_OF_STOCK})
    if found.state == pb.STATE_REJECTED:
        raise StepRefused(f"too little of {found.short_of}", told={"reason": Reason.OUT_OF_STOCK})
    if found.state != pb.STATE_RESERVED:
        raise StepRefused(f"the reservation is {pb.State.Name(found.state)}", told={"reason": Reason.TOO_LATE})


def _total(data: Data) -> Money:
    return Money(data["cents"], data["currency"])


def _traced(call: Call) -> Call:
    """The call, on behalf of the request that has placed the order."""

    @wraps(call)
    async def inside(key: str, data: Data) -> Data | None:
        held = request_id.set(data["correlation"])
        try:
            return await call(key, data)
        finally:
            request_id.reset(held)

    return inside
