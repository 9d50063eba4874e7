"""The shop's services as processes: started under their fork-server beside the servers that they need.

The services are run by command, and known by the map (`faultline.shop.topology`) alone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from signal import SIGTERM
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from faultline.components import PortTaken, Record, StartFailed, ports, processes, records
from faultline.components.http import ask
from faultline.shop.settings import peer_variable, port_variable, rpc_port_variable
from faultline.shop.topology import SERVICES, replicas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from faultline.components import Clone
    from faultline.shop.topology import Replica


def stores(names: Iterable[str]) -> tuple[str, ...]:
    """The components that these services need."""
    return tuple(sorted({store.value for name in names for store in SERVICES[name].stores}))


STORES = stores(SERVICES)
"""The components that the shop needs."""
SEARCHLESS = tuple(name for name in SERVICES if name != "search")
"""The services of a shop that sells, and finds nothing by words: without OpenSearch, which is half of its memory."""
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "postgres": {"config": {"max_connections": "300"}},
    "redis": {"append_only": True},
}
"""How they are started."""
PATIENCE = 60.0  # seconds until all are ready, on a loaded machine
GRACE = 12.0  # seconds; a service has five for its requests
LOG, STATE = "fork-server.log", "services.json"


class Running(msgspec.Struct, frozen=True):
    """One replica, as the fork-server has written it down."""

    name: str
    pid: int | None
    port: int
    rpc_port: int | None
    starts: int


@dataclass(frozen=True, slots=True)
class Services:
    """All services, in processes of their own, for as long as the block of `running` lasts."""

    folder: Path
    process: subprocess.Popen[bytes]
    began: float
    names: tuple[str, ...] = tuple(SERVICES)
    """Which services."""

    async def ready(self) -> float:
        """Wait until each says so of itself; the seconds since their start. Raises `StartFailed` if one does not."""
        waiting = {replica.name for replica in replicas(self.names)}
        seen = "no answer"
        while waiting:
            for one in read(self.folder):
                if one.name not in waiting:
                    continue
                if (found := await _ready(one.port)) is None:
                    waiting.remove(one.name)
                else:
                    seen = found
            if self.process.poll() is not None or monotonic() > self.began + PATIENCE:
                name = min(waiting)
                raise StartFailed(f"{name} is not ready ({seen}); see {self.folder / name}.log and {self.folder / LOG}")
            await asyncio.sleep(0.01)
        return monotonic() - self.began

    async def ended(self) -> int:
        """Wait for the end of the fork-server, with which all services have ended; its exit code."""
        if leader := processes.look(self.process.pid):
            await processes.ended(leader)
        return self.process.wait()


def read(folder: Path) -> list[Running]:
    """Which services run in this folder; none if there was never a fork-server."""
    try:
        return msgspec.json.decode((folder / STATE).read_bytes(), type=list[Running])
    except FileNotFoundError:
        return []


@asynccontextmanager
async def running(
    clone: Clone, urls: Mapping[str, str], names: tuple[str, ...] = tuple(SERVICES), *, among: Path | None = None
) -> AsyncIterator[Services]:
    """Start the services over these servers, by component; they end with the block.

    `names`: which of them, two or more. `among`: the folder of these servers, if it is not the shop's.
    """
    folder = (among or clone.shop) / "services"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    record = Record(
        name="services",
        component="shop",
        provider="fork-server",
        host=ports.HOST,
        port=0,
        url="",
        folder=str(folder),
        program=os.path.realpath(sys.executable),  # noqa: ASYNC240 -- a look at a local file
        since=records.now(),
        pid=None,
        started=None,
    )
    with ExitStack() as claims:
        environment = {
            "SHOP_PROVIDER_SECRET": secrets.token_hex(32),
            "SHOP_USERS_SECRET": secrets.token_hex(32),
            **clone.environment,
            **variables(urls),
            **_ports(claims, clone.environment),
            "SHOP_FOLDER": str(folder),
        }
        records.write(record)  # from here on a kill leaves what the next command can find
        process = processes.spawn(
            [sys.executable, "-m", "faultline.shop", *names],
            folder=folder,
            environment=environment,
            output=folder / LOG,
        )
        began = monotonic()
        try:
            if leader := processes.look(process.pid):
                record = replace(record, pid=leader.pid, started=leader.started)
                records.write(record)
            yield Services(folder, process, began, names)
        finally:
            try:
                if leader := record.kin.leader:
                    processes.send([leader], SIGTERM)
                    await processes.ended(leader, within=GRACE)
            finally:
                processes.kill_now(record.kin)  # who has not ended, also when this is cancelled
            await processes.kill(record.kin)
            process.wait()
            records.erase(record)


def variables(urls: Mapping[str, str]) -> dict[str, str]:
    """What tells a service where its servers are, by component."""
    return {f"SHOP_{component.upper()}_URL": urls[component] for component in STORES if component in urls}


def at(replica: Replica, port: int, rpc_port: int | None = None) -> dict[str, str]:
    """What has a replica answer there, and nowhere else."""
    told = {port_variable(replica): str(port)}
    return told if rpc_port is None else {**told, rpc_port_variable(replica): str(rpc_port)}


def led(caller: str, callee: Replica, address: str) -> dict[str, str]:
    """What leads a service's calls of a replica to this `host:port`, as to a proxy."""
    return {peer_variable(caller, callee): address}


def _ports(claims: ExitStack, given: Mapping[str, str]) -> dict[str, str]:
    """Each replica's usual ports, or others where somebody has those; without those that are given."""
    found: dict[str, str] = {}
    for replica in replicas():
        for variable, usual in ((port_variable, replica.port), (rpc_port_variable, replica.rpc_port)):
            if usual is not None and variable(replica) not in given:
                found[variable(replica)] = str(_port(usual, claims))
    return found


def _port(usual: int, claims: ExitStack) -> int:
    if ports.is_free(usual):
        with suppress(PortTaken):  # another lab of this machine is about to take it
            return claims.enter_context(ports.reserved(usual))
    return claims.enter_context(ports.reserved())


async def _ready(port: int) -> str | None:
    """None when it is; otherwise what is in the way."""
    try:
        async with asyncio.timeout(1.0):
            answer = await ask(f"http://{ports.HOST}:{port}/ready")
    except (OSError, TimeoutError) as error:
        return repr(error)
    return None if answer.status == 200 else answer.body.decode(errors="replace")
