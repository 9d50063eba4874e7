"""The gRPC side of inventory: what orders asks, and how it is told what went wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg import DataError, OperationalError
from psycopg_pool import PoolTimeout

from faultline.shop import rpc_server, statuses
from faultline.shop.contracts import Line
from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.contracts.inventory_pb2_grpc import InventoryServicer, add_InventoryServicer_to_server
from faultline.shop.errors import Problem, Violation
from faultline.shop.inventory import domain
from faultline.shop.inventory.feed import PATIENCE, Interrupted, TooMany
from faultline.shop.inventory.flash_sale import Crowded
from faultline.shop.inventory.imports import Import, Silent
from faultline.shop.logs import request_id
from faultline.shop.requests import identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from faultline.shop.inventory.feed import Changes, Feed
    from faultline.shop.inventory.flash_sale import Till
    from faultline.shop.inventory.store import Stock
    from faultline.shop.settings import Settings

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Request = TypeVar("Request", pb.ReserveRequest, pb.BuyRequest, pb.OrderRequest)
T = TypeVar("T")
Work: TypeAlias = "Callable[[], Awaitable[domain.Reservation | None]]"

LONGEST = 3.0  # seconds for the work of a call, whether or not its caller still waits
SILENCE = 30.0  # seconds for the next message of a caller


STATES = {state: pb.State.Value(f"STATE_{state.name}") for state in domain.State}


class Failure(NamedTuple):
    """How an error is told; `after`: seconds after which asking again may help, None if it never does."""

    code: grpc.StatusCode
    name: str
    after: float | None = None


FAILURES: dict[type[Exception], Failure] = {
    domain.NotAsked: Failure(grpc.StatusCode.INVALID_ARGUMENT, "invalid"),
    DataError: Failure(grpc.StatusCode.INVALID_ARGUMENT, "invalid"),  # PostgreSQL has no text with a zero byte
    domain.AskedOtherwise: Failure(grpc.StatusCode.ALREADY_EXISTS, "asked-otherwise"),
    domain.Refused: Failure(grpc.StatusCode.FAILED_PRECONDITION, "contradiction"),
    domain.TooLate: Failure(grpc.StatusCode.UNAVAILABLE, "lease-over", 0.0),
    Crowded: Failure(grpc.StatusCode.UNAVAILABLE, "crowded", 0.1),
    Interrupted: Failure(grpc.StatusCode.UNAVAILABLE, "interrupted", 0.1),
    Silent: Failure(grpc.StatusCode.ABORTED, "silent", 0.0),
    TooMany: Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too-many-watchers", 5.0),
    PoolTimeout: Failure(grpc.StatusCode.UNAVAILABLE, "unavailable", 1.0),
    # also in the middle of a commit: whether it happened is unknown, and asking again finds out
    OperationalError: Failure(grpc.StatusCode.UNAVAILABLE, "unavailable", 1.0),
    TimeoutError: Failure(grpc.StatusCode.UNAVAILABLE, "unavailable", 1.0),  # LONGEST
}
"""The first that fits; every other error is a defect of ours."""
OURS = (domain.Refused, domain.TooLate, Crowded, Interrupted, Silent, TooMany, DataError)
"""Their messages are for callers; those of others name hosts and statements."""

log = logging.getLogger(__name__)


class Inventory(InventoryServicer):
    """Each call as `contracts/inventory.proto` promises it."""

    def __init__(self, stock: Stock, till: Till, feed: Feed) -> None:
        self._stock = stock
        self._till = till
        self._feed = feed
        self._running: set[asyncio.Task[Any]] = set()

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.Reservation:  # noqa: N802
        """Hold all of it, or none."""

        async def work() -> domain.Reservation:
            wanted = tuple(Line(line.sku, line.quantity) for line in request.lines)
            lines = domain.asked(request.order_id, wanted, request.seconds)
            return await self._stock.reserve(request.order_id, lines, seconds=request.seconds)

        return await self._answered(request, context, work)

    async def Buy(self, request: pb.BuyRequest, context: Context) -> pb.Reservation:  # noqa: N802
        """Hold one unit of a flash sale."""

        async def work() -> domain.Reservation | None:
            domain.asked(request.order_id, (Line(request.sku, 1),), request.seconds)
            return await self._till.sell(request.order_id, request.sku, seconds=request.seconds)

        return await self._answered(request, context, work)

    async def Commit(self, request: pb.OrderRequest, context: Context) -> pb.Reservation:  # noqa: N802
        """It is sold."""
        return await self._answered(request, context, lambda: self._stock.commit(request.order_id))

    async def Release(self, request: pb.OrderRequest, context: Context) -> pb.Reservation:  # noqa: N802
        """It is free again."""
        return await self._answered(request, context, lambda: self._stock.release(request.order_id))

    async def GetReservation(self, request: pb.OrderRequest, context: Context) -> pb.Reservation:  # noqa: N802
        """What has become of it."""
        return await self._answered(request, context, lambda: self._stock.find(request.order_id))

    # Written to the context, and not yielded: so whoever is cancelled has left the `with` when the call is over.
    async def WatchStock(self, request: pb.WatchStockRequest, context: Context) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: N802
        """Levels, and every change of them."""

        async def work() -> NoReturn:
            skus, heartbeat = domain.watched(request.skus, request.heartbeat_seconds)
            place = domain.Place.read(request.resume_token) if request.resume_token else None
            with self._feed.watching(skus, place) as watcher:
                changes = await watcher.next(within=PATIENCE)
                while True:
                    await context.write(_update(changes))
                    changes = await watcher.next(within=heartbeat)

        await _streamed(context, work)

    async def ImportStock(self, request_iterator: object, context: Context) -> pb.ImportSummary:  # noqa: ARG002, N802
        """Count rows; what has become of them."""
        with _of_request(context):
            try:
                return await self._imported(context)
            except Exception as error:  # likewise  # noqa: BLE001, RUF100
                await _refuse(context, error)

    async def _imported(self, context: Context) -> pb.ImportSummary:
        one: Import | None = None
        while (message := await _next(context)) is not None:
            one = one or Import(self._stock, message.import_id, self._worked)
            if message.import_id not in {"", one.id}:
                raise domain.NotAsked(f"this call is import {one.id}", "import_id")
            for row in message.rows:
                await one.add(Line(row.sku, row.quantity))
        if one is None:
            raise domain.NotAsked("an import has an id", "import_id")
        summary = await one.done()
        errors = [pb.RowError(**asdict(error)) for error in summary.errors]
        return pb.ImportSummary(
            import_id=one.id,
            rows=summary.rows,
            counted=summary.counted,
            counted_now=summary.counted_now,
            refused=summary.refused,
            errors=errors,
        )

    async def _worked(self, work: Callable[[], Awaitable[T]], seconds: float = LONGEST) -> T:
        """Work to the end, though the caller gives up: who is cancelled in the middle of a statement has to have it
        cancelled by the server, too, and as long as a slow server takes for that, the connection serves nobody.
        """

        async def within() -> T:
            async with asyncio.timeout(seconds):
                return await work()

        task = asyncio.create_task(within())
        self._running.add(task)  # or nobody would hold it, and it might vanish
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the caller is told, if there still is one; to nobody else is it news

    async def _answered(self, request: Request, context: Context, work: Work) -> pb.Reservation:
        with _of_request(context):
            try:
                found = await self._worked(work)
            except Exception as error:  # every one is told to the caller as a status  # noqa: BLE001, RUF100
                await _refuse(context, error)
        if found is None:
            unknown = f"nothing is known of that, for order {request.order_id}"
            await statuses.abort(context, Problem(404, "unknown", unknown))
        return _message(found)


async def _next(context: Context) -> pb.ImportStockRequest | None:
    """The next message; None after the last. Raises `Silent`."""
    try:
        async with asyncio.timeout(SILENCE):
            message = await context.read()
    except TimeoutError as error:
        raise Silent(f"nothing came for {SILENCE:g} s; send all of it again, by the same id") from error
    return None if message is grpc.aio.EOF else message


async def _streamed(context: Context, work: Callable[[], Awaitable[None]]) -> None:
    with _of_request(context):
        try:
            await work()
        except Exception as error:  # likewise  # noqa: BLE001, RUF100
            if not context.cancelled():  # otherwise it is what writing to nobody raises
                await _refuse(context, error)


@contextmanager
def _of_request(context: Context) -> Iterator[None]:
    metadata = {name: str(value) for name, value in context.invocation_metadata() or ()}
    held = request_id.set(identity(metadata.get("x-request-id", "")))
    try:
        yield
    finally:
        request_id.reset(held)


async def _refuse(context: Context, error: Exception) -> NoReturn:
    failure = next((failure for kind, failure in FAILURES.items() if isinstance(error, kind)), None)
    if failure is None:
        log.error("failed", exc_info=error)
        defect = Problem(502, "failed", "this is a defect of the service; its log has the request's id")
        await statuses.abort(context, defect, grpc.StatusCode.INTERNAL)
    detail = str(error) if isinstance(error, OURS) else f"{type(error).__name__}: ask again"
    violations = [Violation(error.field, detail)] if isinstance(error, domain.NotAsked) else []
    problem = Problem(
        statuses.HTTP[failure.code], failure.name, detail, retry_after=failure.after, violations=violations
    )
    await statuses.abort(context, problem, failure.code)


def _update(changes: Changes) -> pb.StockUpdate:
    levels = [pb.StockLevel(**asdict(level)) for level in changes.levels]
    return pb.StockUpdate(levels=levels, resume_token=changes.place.token, anew=changes.anew)


def _message(found: domain.Reservation) -> pb.Reservation:
    at = Timestamp()
    at.FromDatetime(found.expires_at)
    lines = [pb.Line(sku=line.sku, quantity=line.quantity) for line in found.lines]
    state = STATES[found.state]
    return pb.Reservation(order_id=found.order, state=state, lines=lines, expires_at=at, short_of=found.short_of)


@asynccontextmanager
async def served(
    inventory: Inventory,
    settings: Settings,
    ready: Mapping[str, Callable[[], Awaitable[object]]],
    *,
    end: Callable[[], None],
) -> AsyncIterator[None]:
    """Answer while the block runs, then `end` the streams, and let calls end for `drain` seconds.

    Raises `OSError` where the port is taken.
    """
    server = grpc.aio.server(options=rpc_server.OPTIONS)
    add_InventoryServicer_to_server(inventory, server)
    names = [pb.DESCRIPTOR.services_by_name["Inventory"].full_name]
    async with rpc_server.served(server, settings, names=names, ready=ready, end=end):
        yield
