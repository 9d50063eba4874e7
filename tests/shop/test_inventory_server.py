"""What inventory's gRPC server says of itself and of failures: health, reflection, details."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from signal import SIGTERM
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from tests.shop.conftest import DEADLINE, Shop, until

from faultline.components.faults import Reset
from faultline.shop import statuses
from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.contracts.inventory_pb2_grpc import InventoryStub
from faultline.shop.errors import Violation

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("inventory-server"),  # they share a shop
]
NAMES = ("catalog", "inventory")
ONE = "inventory-1"
SERVICE = "faultline.inventory.v1.Inventory"
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def channel(shop: Shop, name: str = ONE) -> AsyncIterator[Any]:  # gRPC's own stubs know no asyncio
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.process(name).rpc_port}") as one:
        yield one


async def failure(call: "Awaitable[object]") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as seen:
        await call
    return seen.value


async def test_it_tells_what_it_serves(shop_: Shop) -> None:
    async with channel(shop_) as one:
        stub: Any = ServerReflectionStub(one)

        async def asked(request: ServerReflectionRequest) -> Any:
            async for answer in stub.ServerReflectionInfo(iter([request]), timeout=DEADLINE):
                return answer
            raise AssertionError("no answer")

        listed = await asked(ServerReflectionRequest(list_services=""))
        names = {one.name for one in listed.list_services_response.service}
        assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        file = await asked(ServerReflectionRequest(file_containing_symbol=SERVICE))
        described = FileDescriptorProto.FromString(file.file_descriptor_response.file_descriptor_proto[0])
        assert described.name == pb.DESCRIPTOR.name


async def test_health_is_what_ready_says_and_who_watches_is_told_of_the_end(shop_: Shop) -> None:
    async with channel(shop_) as one:
        stub: Any = HealthStub(one)

        async def now() -> int:
            status: int = (await stub.Check(HealthCheckRequest(service=SERVICE), timeout=DEADLINE)).status
            return status

        async def told(status: int) -> None:
            """Whoever watches hears it; on a busy machine something else may have come before."""
            async with asyncio.timeout(DEADLINE):
                while (await watched.read()).status != status:
                    pass

        async def well() -> bool:
            return await now() == SERVING

        watched = stub.Watch(HealthCheckRequest(service=""), timeout=240)
        await told(SERVING)
        await until(well)
        fault = shop_.before_postgres.add(Reset())
        assert await now() == NOT_SERVING, "asked when somebody asks, not remembered"
        assert (await shop_.ask(ONE, "/ready")).status == 503
        await told(NOT_SERVING)
        shop_.before_postgres.remove(fault)
        await until(well)
        await told(SERVING)
        unknown = await failure(stub.Check(HealthCheckRequest(service="who"), timeout=DEADLINE))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        before = shop_.process(ONE).pid
        assert before
        os.kill(before, SIGTERM)
        await told(NOT_SERVING)
        assert await watched.read() is grpc.aio.EOF
    await shop_.again(ONE, after=before)


async def test_a_failure_says_what_is_wrong_and_whether_to_ask_again(shop_: Shop) -> None:
    async with channel(shop_) as one:
        stub: Any = InventoryStub(one)
        lines = [pb.Line(sku="cup", quantity=1), pb.Line(sku="pot", quantity=0)]
        wrong = statuses.problem(await failure(stub.Reserve(pb.ReserveRequest(order_id="a", lines=lines, seconds=1))))
        assert wrong.violations == (Violation("lines[1].quantity", "0 of 'pot' cannot be reserved"),)
        assert (wrong.status, wrong.name, wrong.retry_after) == (422, "invalid", None)
        unknown = statuses.problem(await failure(stub.Commit(pb.OrderRequest(order_id="nobody"))))
        assert (unknown.status, unknown.name) == (404, "unknown")
        fault = shop_.before_postgres.add(Reset())
        away = await failure(stub.GetReservation(pb.OrderRequest(order_id="a")))
        shop_.before_postgres.remove(fault)
        assert away.code() is grpc.StatusCode.UNAVAILABLE
        assert statuses.problem(away).retry_after == 1.0
        said = statuses.problem(away).detail
        assert re.fullmatch(r"[A-Za-z]+: ask again", said), "what PostgreSQL says names hosts and statements"


async def test_the_same_failure_over_http_says_the_same(shop_: Shop) -> None:
    """The store is away: one word for it, whichever way somebody has asked."""
    fault = shop_.before_postgres.add(Reset())
    async with channel(shop_) as one:
        stub: Any = InventoryStub(one)
        call = stub.GetReservation(pb.OrderRequest(order_id="a"))
        rpc, http = await asyncio.gather(failure(call), shop_.ask(ONE, "/v1/stock/cup"))
    shop_.before_postgres.remove(fault)
    problem = statuses.problem(rpc)
    assert (problem.status, f"/problems/{problem.name}") == (http.status, http.body["type"])
    assert http.headers["retry-after"] == str(round(problem.retry_after or 0))
