"""Starts servers as plain processes, and ends every one of them, also those of a supervisor that died."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from faultline.components import ports, processes, records
from faultline.components.addresses import shown
from faultline.components.catalog import CATALOG, configure
from faultline.components.clone import Clone
from faultline.components.component import DATA, Component, Site
from faultline.components.errors import BadSettings, FolderTaken, NotOurs, NotReady, PortTaken, StartFailed
from faultline.components.identity import Identity, anybody_but_root, myself
from faultline.components.instance import Instance
from faultline.components.providers import Given, Program
from faultline.components.records import Record

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")
ATTEMPTS = 5


class Supervisor:
    """Servers that live as long as an `async with`, in a folder of their own.

        async with Supervisor(folder) as supervisor:
            primary = await supervisor.start("redis", settings={"append_only": True})
            await primary.kill()
            await primary.restart()

    Entering ends what an earlier supervisor of this folder left running; leaving stops what this one started, and
    nothing else. What they kept on disk stays: a later start under the same name finds it.
    """

    def __init__(self, folder: Path, clone: Clone | None = None) -> None:
        self._folder = folder.resolve()
        self._clone = clone or Clone.here()
        self._names = set[str]()
        self._instances: dict[str, Instance] = {}
        self._resources = ExitStack()

    async def __aenter__(self) -> Self:
        self._resources.enter_context(records.owned(self._folder))
        await _end_leftovers(self._folder)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._resources:
            try:
                async with asyncio.TaskGroup() as group:
                    for instance in self._instances.values():
                        group.create_task(instance.stop())
            except ExceptionGroup as several:
                raise several.exceptions[0] from error

    @property
    def instances(self) -> Mapping[str, Instance]:
        """All that were started here, by name, also those that have ended since."""
        return self._instances

    async def start(
        self,
        component: str,
        *,
        name: str | None = None,
        port: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> Instance:
        """Start a server; returns when it serves.

        `port` is a free one unless given. The settings are the fields of the component's class.
        """
        configured = configure(component, settings or {})
        name = self._reserve(component, name)
        try:
            match await configured.sources.provide(self._clone):
                case Given() as given:
                    return await self._adopt(name, configured, given, plain=not settings and port is None)
                case Program() as program:
                    return await self._launch(name, configured, program, port)
        except BaseException:  # also when cancelled: it may be tried again under this name
            self._names.remove(name)
            self._instances.pop(name, None)
            raise

    def _reserve(self, component: str, name: str | None) -> str:
        name = name or next(free for number in count(1) if (free := f"{component}-{number}") not in self._names)
        if name in self._names or not NAME.fullmatch(name):
            raise BadSettings(f"no instance can be called {name!r}: taken, or not small letters, digits and dashes")
        self._names.add(name)
        return name

    async def _adopt(self, name: str, component: Component, given: Given, *, plain: bool) -> Instance:
        if not plain or given.url in {instance.url for instance in self._instances.values()}:
            raise NotOurs(f"{shown(given.url)} is one server, used as it is: unset its variable to start our own")
        address = urlsplit(given.url)
        host, port = address.hostname or ports.HOST, address.port or next(iter(component.ports.values()))
        record = self._record(name, component, given.provider, host=host, port=port, url=given.url)
        instance = self._instances[name] = Instance(component, record, None)
        try:
            async with asyncio.timeout(component.patience):
                await component.ready(given.url)
        except (OSError, NotReady) as error:
            raise StartFailed(
                f"{component.name} at {shown(given.url)} does not serve ({error}); start it or unset its variable"
            ) from error
        records.write(record)
        return instance

    async def _launch(self, name: str, component: Component, program: Program, port: int | None) -> Instance:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._try(name, component, program, port)
            except PortTaken:  # a stranger was quicker: again, elsewhere
                if port is not None or attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _try(self, name: str, component: Component, program: Program, port: int | None) -> Instance:
        first, *others = component.ports
        numbers = {first: self._resources.enter_context(ports.reserved(port))}
        numbers |= {other: self._resources.enter_context(ports.reserved()) for other in others}
        record = self._record(
            name,
            component,
            program.provider,
            host=ports.HOST,
            port=numbers[first],
            url=component.url(ports.HOST, numbers[first]),
        )
        site = Site(
            name=name,
            host=ports.HOST,
            ports=numbers,
            folder=Path(record.folder),
            cache=self._clone.cache,
            program=program,
            identity=self._identity(component),
            environment=self._clone.environment,
        )
        record = replace(record, program=program.real_path)
        instance = self._instances[name] = Instance(component, record, site)
        await instance.start()
        return instance

    def _identity(self, component: Component) -> Identity:
        return anybody_but_root(self._clone.environment) if component.refuses_root else myself()

    def _record(self, name: str, component: Component, provider: str, *, host: str, port: int, url: str) -> Record:
        folder = self._folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return Record(
            name=name,
            component=component.name,
            provider=provider,
            host=host,
            port=port,
            url=url,
            folder=str(folder),
            program="",
            since=records.now(),
            pid=None,
            started=None,
        )


async def sweep(folder: Path) -> list[Record]:
    """End what a dead supervisor of this folder left running; who they were. A live one is left alone."""
    if not any(folder.glob("*/instance.json")):  # noqa: ASYNC240 -- a look at a local folder
        return []
    try:
        with records.owned(folder):
            return await _end_leftovers(folder)
    except FolderTaken:
        return []


async def ask_to_end(folder: Path, *, within: float) -> bool:
    """SIGTERM to the supervisor of this folder; whether it, and all that it started, was gone in time."""
    pid = records.owner(folder)
    process = processes.look(pid) if pid else None
    if process is not None:
        processes.send([process], SIGTERM)
        if not await processes.ended(process, within=within):
            return False
    await sweep(folder)
    return True


async def _end_leftovers(folder: Path) -> list[Record]:
    left = records.read(folder)
    found = [record for record in left if record.kin.members()]
    for record in found:
        await processes.kill(record.kin)
    for record in left:
        if component := CATALOG.get(record.component):
            component.release(Path(record.folder) / DATA)
        records.erase(record)
    return found
