"""What orders asks of others: prices of catalog, stock of inventory, captures of payment.

Each call answers, or raises: `NotTried` when it was not sent, anything else when its outcome is unknown. What others
have refused is an answer. Nothing is tried again here: one layer above each of these does so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import aiohttp
import grpc
import msgspec

from faultline.patterns import Retry
from faultline.patterns.deadline import remaining
from faultline.shop.contracts import Line, Money
from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.contracts.inventory_pb2_grpc import InventoryStub
from faultline.shop.logs import request_id
from faultline.shop.peers import Http, Replicas

if TYPE_CHECKING:  # protoc's stubs know one class more than its code has
    from collections.abc import Sequence

    from faultline.shop.contracts.inventory_pb2_grpc import InventoryAsyncStub

Stub: TypeAlias = "InventoryAsyncStub"
Request = TypeVar("Request", pb.ReserveRequest, pb.OrderRequest)

RPC = 0.3  # seconds for a call of inventory
HTTP = 0.5  # seconds for a request
PRICES = 2.0  # seconds for a price, with all that is tried for it
REFUSED = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)
"""What inventory says of the order itself; every other status leaves open what has happened."""
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # its own is two minutes: a replica is back sooner
]


class _Product(msgspec.Struct):
    price: Money


class CaptureState(msgspec.Struct):
    """What has become of the capture of an order."""

    state: Literal["pending", "captured", "declined", "refunded"]
    code: str | None = None
    """Why it was declined."""
    refund_code: str = ""
    """Why it will not be given back."""


class Catalog:
    """What things cost."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str]) -> None:
        self._http = Http(session, addresses, within=HTTP)
        self._retry = Retry(attempts=3, base=0.02, total=PRICES)

    async def price(self, sku: str) -> Money | None:
        """What one costs; None if it cannot be bought."""
        found = await self._retry.call(lambda: self._http.get(f"/v1/products/{sku}"), idempotent=True)
        return msgspec.json.decode(found, type=_Product).price if found is not None else None


class Payment:
    """What has become of money; that something is to become of it, it is told by commands."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str]) -> None:
        self._http = Http(session, addresses, within=HTTP)

    async def capture(self, order: str) -> CaptureState | None:
        """What has become of the order's capture; None if payment has not heard of it, yet."""
        found = await self._http.get(f"/v1/captures/{order}")
        return msgspec.json.decode(found, type=CaptureState) if found is not None else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Inventory has not done it, and never will; or it knows nothing of the order."""

    code: grpc.StatusCode
    why: str


class Inventory:
    """What is held for an order; its id is the key of every call."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        stubs: list[Stub] = [InventoryStub(channel) for channel in channels]
        self._replicas = Replicas(stubs, slow_after=RPC)

    async def reserve(self, order: str, lines: Sequence[Line], *, seconds: float) -> pb.Reservation | Refusal:
        """Hold these for so many seconds, all or none."""
        asked = [pb.Line(sku=line.sku, quantity=line.quantity) for line in lines]
        return await self._ask("Reserve", pb.ReserveRequest(order_id=order, lines=asked, seconds=seconds))

    async def commit(self, order: str) -> pb.Reservation | Refusal:
        """Sell what it holds."""
        return await self._ask("Commit", pb.OrderRequest(order_id=order))

    async def release(self, order: str) -> pb.Reservation | Refusal:
        """Free what it holds, and let it hold nothing later."""
        return await self._ask("Release", pb.OrderRequest(order_id=order))

    async def reservation(self, order: str) -> pb.Reservation | Refusal:
        """What has become of it."""
        return await self._ask("GetReservation", pb.OrderRequest(order_id=order))

    async def _ask(self, name: str, request: Request) -> pb.Reservation | Refusal:
        async def call(stub: Stub) -> pb.Reservation | Refusal:
            metadata = (("x-request-id", request_id.get()),)
            left = remaining()
            seconds = RPC if left is None else min(RPC, left)
            method: grpc.aio.UnaryUnaryMultiCallable[Any, pb.Reservation] = getattr(stub, name)
            try:
                return await method(request, timeout=seconds, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                told = f"{name}: {error.code().name}: {error.details()}"
                if error.code() not in REFUSED:
                    raise ConnectionError(told) from error
                return Refusal(error.code(), told)

        return await self._replicas.call(call)


def channel(address: str) -> grpc.aio.Channel:
    """To one replica; it connects when it is used, and again whenever that is over."""
    return grpc.aio.insecure_channel(address, options=CHANNEL)
