"""What every component says about itself; the core never asks which one it holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import ClassVar, Protocol

from faultline.components import processes
from faultline.components.errors import StartFailed
from faultline.components.identity import Identity
from faultline.components.providers import Program, Sources

DATA = "data"
LOG = "server.log"


class Address(Protocol):
    """Where a server answers; an instance is one, a fault proxy before it is another."""

    @property
    def host(self) -> str:
        """An IP address."""
        ...

    @property
    def port(self) -> int:
        """A TCP port."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """Where one instance lives."""

    name: str
    host: str
    ports: Mapping[str, int]
    folder: Path
    """Its own: record, log and `data`. Servers start in here."""
    cache: Path
    """Shared by all instances: what is slow to make and quick to copy."""
    program: Program
    identity: Identity
    environment: Mapping[str, str]

    @property
    def data(self) -> Path:
        """What a restart must find again."""
        return self.folder / DATA

    async def run(self, program: str | Path, *arguments: str | Path) -> None:
        """A tool that prepares the data, as the user whom the server will run as."""
        argv = [*self.identity.prefix, str(program), *map(str, arguments)]
        code, said = await processes.run(argv, folder=self.folder, environment=self.environment)
        if code:
            raise StartFailed(f"{self.name}: {program} ended with {code} in {self.folder}; it said:\n{said}")


@dataclass(frozen=True, slots=True)
class Command:
    """What to run; `environment` adds to the lab's own."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


class Component(Protocol):
    """One kind of server. The class describes it; an object of it is one instance's settings."""

    name: ClassVar[str]
    purpose: ClassVar[str]
    sources: ClassVar[Sources]
    ports: ClassVar[Mapping[str, int]]
    """What it listens on and where it usually does; clients use the first. Ours get free ports instead."""
    patience: ClassVar[float]
    """Seconds it may take until it is ready, on a loaded machine."""
    stop_signal: ClassVar[Signals]
    grace: ClassVar[float]
    """Seconds between the stop signal and SIGKILL."""
    refuses_root: ClassVar[bool]
    memory: ClassVar[int]
    """Bytes (PSS) that one holds soon after its start, as measured."""
    disk: ClassVar[int]
    """Bytes that it takes when it is fetched, with the data of one that is empty, as measured."""

    def url(self, host: str, port: int) -> str:
        """What a client library takes as the address."""
        ...

    async def prepare(self, site: Site) -> None:
        """Make `site.data` what the server expects; called before every start, also after a kill."""
        ...

    def command(self, site: Site) -> Command:
        """How it is started in the foreground, bound to `site.host` only."""
        ...

    async def ready(self, url: str) -> None:
        """Return when it serves; raise `NotReady` or `OSError` to be asked again."""
        ...

    @staticmethod
    def release(data: Path) -> None:
        """Free what its processes may leave outside of `data`; called when they are gone, however they ended."""
        ...
