"""Stock in a browser: `WatchStock` over gRPC-Web, by hand, through a real Envoy to real replicas."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

import aiohttp
import pytest
from tests.shop.conftest import DEADLINE, Shop, until

from faultline.components import Instance, Supervisor
from faultline.engine import grpc_web
from faultline.shop.contracts import inventory_pb2 as pb

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("grpc-web"),  # they share a shop
]
NAMES = ("catalog", "inventory")
ONE, TWO = "inventory-1", "inventory-2"
ORIGIN = "http://127.0.0.1:3003"
WATCH = f"/{grpc_web.SERVICE}/WatchStock"
HEADERS = {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1", "Origin": ORIGIN}
TRAILERS = 0x80


@dataclass(frozen=True, slots=True)
class Upstream:
    """A replica's gRPC server."""

    host: str
    port: int


@asynccontextmanager
async def envoy(shop: Shop, folder: Path, *names: str) -> AsyncIterator[Instance]:
    """Before these replicas."""
    upstreams = [Upstream("127.0.0.1", shop.process(name).rpc_port or 0) for name in names]
    async with Supervisor(folder) as supervisor:
        one = await supervisor.start("envoy", settings=grpc_web.settings(upstreams, origin=ORIGIN))
        yield one


def framed(request: pb.WatchStockRequest) -> bytes:
    """A message, as gRPC-Web has it: no compression, its length, itself."""
    body = request.SerializeToString()
    return b"\0" + len(body).to_bytes(4, "big") + body


async def frame(answer: aiohttp.ClientResponse) -> tuple[int, bytes]:
    """The next of the body: its kind, and what is in it."""
    async with asyncio.timeout(DEADLINE):
        head = await answer.content.readexactly(5)
        return head[0], await answer.content.readexactly(int.from_bytes(head[1:], "big"))


async def update(answer: aiohttp.ClientResponse) -> pb.StockUpdate:
    """The next one that says something."""
    while True:
        kind, body = await frame(answer)
        assert kind == 0, body
        told = pb.StockUpdate.FromString(body)
        if told.levels:
            return told


def trailers(body: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in body.decode().lower().splitlines() if line)


async def receive(shop: Shop, sku: str, receipt: str, *, by: str = ONE) -> None:
    path = f"/v1/stock/{sku}/receipts/{receipt}"
    assert (await shop.ask(by, path, {"quantity": 1}, method="PUT")).status == 200


@asynccontextmanager
async def watching(url: str, *skus: str, token: str = "") -> AsyncIterator[aiohttp.ClientResponse]:
    request = framed(pb.WatchStockRequest(skus=skus, resume_token=token, heartbeat_seconds=1))
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.post(url + WATCH, data=request, headers=HEADERS) as answer,
    ):
        yield answer


async def test_a_page_sees_stock_change_piece_by_piece(shop_: Shop, tmp_path: Path) -> None:
    await receive(shop_, "live", "first")
    async with envoy(shop_, tmp_path, ONE, TWO) as proxy, watching(proxy.url, "live") as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("application/grpc-web")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        first = await update(answer)
        assert (first.anew, [level.available for level in first.levels]) == (True, [1])
        for n, by in enumerate((ONE, TWO, ONE)):
            await receive(shop_, "live", f"more-{n}", by=by)
            assert [level.available for level in (await update(answer)).levels] == [n + 2]


async def ended(answer: aiohttp.ClientResponse) -> str:
    """The status at the end of the body; none where the body breaks off, as Envoy has it when a replica dies."""
    try:
        while True:
            kind, body = await frame(answer)
            if kind == TRAILERS:
                return trailers(body)["grpc-status"].strip()
    except (aiohttp.ClientPayloadError, asyncio.IncompleteReadError):
        return ""


async def test_a_page_goes_on_where_it_was_when_its_replica_was_killed(shop_: Shop, tmp_path: Path) -> None:
    await receive(shop_, "again", "first")
    victim = shop_.process(ONE).pid
    assert victim
    async with envoy(shop_, tmp_path, ONE) as before, envoy(shop_, tmp_path / "other", ONE, TWO) as both:
        async with watching(before.url, "again") as answer:
            token = (await update(answer)).resume_token
            os.kill(victim, SIGKILL)
            assert await ended(answer) != "0", "cut off, and told that this is the end"
        await receive(shop_, "again", "second", by=TWO)

        async def resumed() -> bool:
            """Envoy may not know yet that one of them is gone, and say so."""
            async with watching(both.url, "again", token=token) as answer:
                if answer.headers.get("grpc-status", "0") != "0":
                    return False
                now = await update(answer)
                return (now.anew, [level.available for level in now.levels]) == (False, [2])

        await until(resumed)
    await shop_.again(ONE, after=victim)


async def test_what_is_wrong_reaches_the_page_with_its_details(shop_: Shop, tmp_path: Path) -> None:
    async with envoy(shop_, tmp_path, ONE, TWO) as proxy, watching(proxy.url) as answer:
        told = dict(answer.headers)
        if "grpc-status" not in {name.lower() for name in told}:
            kind, body = await frame(answer)
            assert kind == TRAILERS
            told = trailers(body)
        told = {name.lower(): value.strip() for name, value in told.items()}
        assert told["grpc-status"] == "3"
        assert told["grpc-status-details-bin"]
        assert "grpc-status-details-bin" in answer.headers["access-control-expose-headers"]


async def test_other_pages_may_not_and_nobody_may_do_more_than_watch(shop_: Shop, tmp_path: Path) -> None:
    async with envoy(shop_, tmp_path, ONE, TWO) as proxy, aiohttp.ClientSession() as session:

        async def preflight(origin: str) -> str | None:
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            asks["Access-Control-Request-Headers"] = "content-type,x-grpc-web"
            async with session.options(proxy.url + WATCH, headers=asks) as answer:
                return answer.headers.get("access-control-allow-origin")

        assert await preflight(ORIGIN) == ORIGIN
        assert [await preflight(origin) for origin in ("http://evil.example", "null", ORIGIN + "1")] == [None] * 3
        for call in ("Reserve", "Commit", "ImportStock", "../WatchStock"):
            url = f"{proxy.url}/{grpc_web.SERVICE}/{call}"
            async with session.post(url, data=framed(pb.WatchStockRequest()), headers=HEADERS) as answer:
                assert answer.headers.get("grpc-status") == "12" or answer.status == 404
