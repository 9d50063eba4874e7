"""Where a proof takes place: servers of its own, some of the shop's services, and a learner's file in one of them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from faultline.components import ports
from faultline.components.http import ask
from faultline.components.processes import tied
from faultline.engine import shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from faultline.components import Clone, Instance
    from faultline.shop.topology import Replica


class NotProven(Exception):
    """The shop with the solution in it does not do what it is there for; says what was seen."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise, and what was seen against it; "" if it held."""

    promise: str
    against: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a proof."""

    findings: Sequence[Finding]
    in_short: str
    """If all of them held."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers run; what is started here ends with its block."""

    clone: Clone
    folder: Path
    servers: Mapping[str, Instance]
    say: Callable[[str], None]
    """Tells whoever waits what is being done."""

    def server(self, component: str) -> Instance:
        """The one of that name."""
        return self.servers[component]

    @asynccontextmanager
    async def services(
        self, *names: str, setting: Mapping[str, str], moved: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, shop.Running]]:
        """These services, ready, by replica; `setting` is added to their environment, `moved` to the servers' urls."""
        clone = replace(self.clone, environment={**self.clone.environment, **setting})
        urls = self._urls(moved)
        async with shop.running(clone, urls, names, among=self.folder) as services:
            await services.ready()
            yield {one.name: one for one in shop.read(services.folder)}

    @asynccontextmanager
    async def one_more(
        self, one: Replica, *words: str, setting: Mapping[str, str], moved: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[int, int]]:
        """A process of a service besides those: the ports at which it answers HTTP and gRPC.

        `words`: what Python is told to run instead of the service itself. Raises `NotProven` if it ends.
        """
        with ExitStack() as claims:
            port, rpc_port = (claims.enter_context(ports.reserved()) for _ in range(2))
            environment = {
                **self.clone.environment,
                **setting,
                **shop.variables(self._urls(moved)),
                **shop.at(one, port, rpc_port if one.rpc_port else None),
                "SHOP_REPLICA": str(one.number),
            }
            command = [sys.executable, *(words or ("-m", "faultline.shop")), one.service.name]
            with (self.folder / f"{one.name}.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    *tied(command, environment), env=environment, stdout=log, stderr=log
                )
            try:
                await _ready(f"http://{ports.HOST}:{port}/ready", process, one.name)
                yield port, rpc_port
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    def _urls(self, moved: Mapping[str, str] | None) -> dict[str, str]:
        return {name: server.url for name, server in self.servers.items()} | dict(moved or {})


async def _ready(url: str, process: asyncio.subprocess.Process, name: str) -> None:
    async with asyncio.timeout(shop.PATIENCE):
        while process.returncode is None:
            try:
                if (await ask(url)).status == 200:
                    return
            except OSError:
                await asyncio.sleep(0.02)
    raise NotProven(f"{name} has ended with {process.returncode}")
