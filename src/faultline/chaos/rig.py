"""A whole shop of one's own with a proxy on every edge, to be broken: before PostgreSQL, the broker, and each peer."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from faultline.chaos.errors import NotReached
from faultline.components import ports
from faultline.components.http import ask
from faultline.components.proxy import FaultProxy
from faultline.engine import shop
from faultline.shop.topology import EDGES, SERVICES, Style, replicas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from faultline.components import Clone
    from faultline.shop.topology import Replica

PATIENCE = 60.0  # seconds until all services are ready (again)
LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """An edge with a proxy on it."""

    name: str
    """The callee's, such as `postgres` or `inventory`."""
    proxy: FaultProxy


@dataclass(frozen=True, slots=True)
class Rig:
    """The running shop."""

    services: shop.Services
    places: tuple[Place, ...]

    def processes(self) -> list[shop.Running]:
        """Each replica as the fork-server says it is now."""
        return shop.read(self.services.folder)

    def url(self, service: str) -> str:
        """Where the service's first replica answers HTTP."""
        one = next(one for one in self.processes() if one.name == f"{service}-1")
        return f"http://{ports.HOST}:{one.port}"

    def urls(self, service: str) -> list[str]:
        """Where all of its replicas do."""
        return [f"http://{ports.HOST}:{one.port}" for one in self.processes() if one.name.rpartition("-")[0] == service]

    async def sku(self) -> str:
        """A product of the catalog, always the same; raises `NotReached` if there is none."""
        answer = await ask(f"{self.url('catalog')}/v1/products?limit=1")
        items = json.loads(answer.body)["items"]
        if not items:
            raise NotReached("there are no products")
        return str(items[0]["sku"])

    async def put(self, service: str, path: str, body: object) -> None:
        """Raises `NotReached` for any answer but 2xx."""
        headers = {"Content-Type": "application/json"}
        answer = await ask(f"{self.url(service)}{path}", method="PUT", body=json.dumps(body).encode(), headers=headers)
        if not 200 <= answer.status < 300:
            raise NotReached(f"PUT {path} of {service}: {answer.status} {answer.body[:200]!r}")

    async def ready(self, *, within: float = PATIENCE) -> None:
        """Wait until every replica is there and says that it is ready; raises `NotReached`."""
        until = monotonic() + within
        waiting = {replica.name for replica in replicas()}
        while waiting:
            for one in self.processes():
                if one.name in waiting and one.pid and await _ready(one.port):
                    waiting.remove(one.name)
            if waiting and monotonic() > until:
                raise NotReached(f"{', '.join(sorted(waiting))} not ready within {within:.0f} s")
            if waiting:
                await asyncio.sleep(LOOK_EVERY)


@asynccontextmanager
async def opened(clone: Clone, urls: Mapping[str, str], *, among: Path | None = None) -> AsyncIterator[Rig]:
    """A shop over these servers, by component, in their folder `among`; ready, and ended with the block."""
    async with AsyncExitStack() as stack:
        environment = dict(clone.environment)
        where: dict[Replica, tuple[int, int | None]] = {}
        for replica in replicas():
            port = stack.enter_context(ports.reserved())
            rpc = stack.enter_context(ports.reserved()) if replica.rpc_port else None
            where[replica] = port, rpc
            environment |= shop.at(replica, port, rpc)
        places: list[Place] = []
        led = dict(urls)
        for store, protocol in (("postgres", "postgres"), ("rabbitmq", "amqp")):
            address = urlsplit(urls[store])
            assert address.hostname
            assert address.port
            proxy = FaultProxy(address.hostname, address.port, protocol="amqp" if protocol == "amqp" else "postgres")
            places.append(Place(store, await stack.enter_async_context(proxy)))
            led[store] = _moved(urls[store], proxy.port)
        for caller, callee, style in _calls():
            for replica in replicas((callee,)):
                port, rpc = where[replica]
                upstream = rpc if style is Style.GRPC else port
                assert upstream
                proxy = FaultProxy(ports.HOST, upstream, protocol="http2" if style is Style.GRPC else "turns")
                places.append(Place(callee, await stack.enter_async_context(proxy)))
                environment |= shop.led(caller, replica, f"{ports.HOST}:{proxy.port}")
        services = await stack.enter_async_context(
            shop.running(replace(clone, environment=environment), led, among=among)
        )
        rig = Rig(services, tuple(places))
        await rig.ready()
        yield rig


def _calls() -> list[tuple[str, str, Style]]:
    """Who calls whom, and waits for the answer."""
    found = {
        (edge.caller, edge.callee, edge.style)
        for edge in EDGES
        if edge.style in {Style.HTTP, Style.GRPC} and {edge.caller, edge.callee} <= set(SERVICES)
    }
    return sorted(found, key=lambda call: call[:2])


def _moved(url: str, port: int) -> str:
    parts = urlsplit(url)
    user = f"{parts.username or ''}{':' + parts.password if parts.password else ''}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}{ports.HOST}:{port}"))


async def _ready(port: int) -> bool:
    try:
        async with asyncio.timeout(1.0):
            return (await ask(f"http://{ports.HOST}:{port}/ready")).status == 200
    except (OSError, TimeoutError):
        return False
