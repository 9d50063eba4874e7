"""Zipkin: traces, their page, and the graph of who calls whom; in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar

from faultline.components import java
from faultline.components.component import Command, Site
from faultline.components.errors import NotReady
from faultline.components.http import ask
from faultline.components.maven import FromMaven
from faultline.components.providers import FromAddress, Sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Zipkin:
    """Ready when it says that it and its store are well. A restarted one is empty.

    Takes Zipkin's own JSON at `/api/v2/spans`, no OTLP.
    """

    name: ClassVar[str] = "zipkin"
    purpose: ClassVar[str] = "traces and their page"
    sources: ClassVar[Sources] = Sources(
        "zipkin",
        (FromAddress("LAB_ZIPKIN_URL"), FromMaven("zipkin.jars", "Zipkin 3.6.1 (135 MB, Maven)")),
        f"{java.INSTALL}. Or give one that runs: LAB_ZIPKIN_URL=http://127.0.0.1:9411",
    )
    ports: ClassVar[Mapping[str, int]] = {"zipkin": 9411}
    patience: ClassVar[float] = 120.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 10.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 203_100_000
    disk: ClassVar[int] = 136_300_000

    megabytes: int = 192
    """Its heap; it takes about 100 MB besides."""
    spans: int = 50_000
    """How many it keeps, at most; the oldest go first."""

    def url(self, host: str, port: int) -> str:
        """Where its page is, too."""
        return f"http://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """Only an empty folder for what it unpacks."""
        site.data.mkdir(exist_ok=True)

    def command(self, site: Site) -> Command:
        """One port for everything, on loopback."""
        options = [*java.heap(self.megabytes), *java.LEAN, f"-Djava.io.tmpdir={site.data}"]
        (jar,) = (site.program.folder or site.folder).glob("*.jar")
        settings = {
            "armeria.ports[0].ip": site.host,
            "armeria.ports[0].port": str(site.ports["zipkin"]),
            "armeria.ports[0].protocols[0]": "http",
            "zipkin.storage.type": "mem",
            "zipkin.storage.mem.max-spans": str(self.spans),
        }
        words = [f"--{name}={value}" for name, value in settings.items()]
        return Command([str(site.program.path), *options, "-jar", str(jar), *words])

    async def ready(self, url: str) -> None:
        """Asks for its health."""
        if (answer := await ask(f"{url.rstrip('/')}/health")).status != 200:
            raise NotReady(f"it is not well yet (HTTP {answer.status})")

    @staticmethod
    def release(data: Path) -> None:
        """It keeps nothing elsewhere."""
