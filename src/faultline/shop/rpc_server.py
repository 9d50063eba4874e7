"""What every gRPC server of the shop is around its own calls: health, reflection, an end in order.

    async with rpc_server.served(server, settings, names=["faultline.inventory.v1.Inventory"], ready=ready, end=end):
        ...

**Health** (`grpc.health.v1`) says what `/ready` says, asked when somebody asks; whoever watches is told within
`LOOK_EVERY`. From the moment on at which the process is to end it is NOT_SERVING.

**The end.** First health says so, then `end` has streams end that would not by themselves, then calls have `drain`
seconds.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from faultline.shop.service import READY, asked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from faultline.shop.settings import Settings

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

LOOK_EVERY = 0.5  # seconds, while somebody watches
OPTIONS = [
    ("grpc.so_reuseport", 0),  # or two processes may share the port, and each get half of the calls
    ("grpc.keepalive_time_ms", 20_000),  # who is gone without a word is noticed, also on a stream that says little
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),  # callers may look likewise
]


class Health(HealthServicer):
    """Whether this process can do its work: `grpc.health.v1`."""

    def __init__(self, names: Sequence[str], ready: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        """`names`: of the services that it speaks for; the empty one is the whole server."""
        self._names = frozenset({"", *names})
        self._ready = ready
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Say NOT_SERVING from now on."""
        self._ending.set()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802
        """How it is now. NOT_FOUND: there is no such service here."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} is served here")
        return HealthCheckResponse(status=await self._now())

    async def Watch(self, request: HealthCheckRequest, context: Context) -> AsyncIterator[HealthCheckResponse]:  # noqa: ARG002, N802
        """How it is now, and every change; the stream ends when the process does."""
        last: int | None = None
        while True:
            known = request.service in self._names
            status: int = await self._now() if known else HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                last = status
                yield HealthCheckResponse(status=status)
            if self._ending.is_set():
                return
            await _within(self._ending.wait(), LOOK_EVERY)

    async def _now(self) -> int:
        states = await asked(self._ready)
        well = all(state == READY for state in states.values()) and not self._ending.is_set()
        status: int = HealthCheckResponse.SERVING if well else HealthCheckResponse.NOT_SERVING
        return status


async def _within(work: Awaitable[object], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return


@asynccontextmanager
async def served(
    server: grpc.aio.Server,
    settings: Settings,
    *,
    names: Sequence[str],
    ready: Mapping[str, Callable[[], Awaitable[object]]],
    end: Callable[[], None],
) -> AsyncIterator[None]:
    """Answer while the block runs, and let calls end for `drain` seconds afterwards.

    Raises `OSError` where the port is taken.
    """
    state = Health(names, ready)
    add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    address = f"{settings.host}:{settings.rpc_port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} cannot be listened on: {error}") from error
    await server.start()
    try:
        yield
    finally:
        state.end()
        end()
        await server.stop(settings.drain)
