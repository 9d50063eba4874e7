"""OpenSearch: full text, facets, aggregations; one node, or several as a cluster."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar

from faultline.components import java
from faultline.components.component import Address, Command, Site
from faultline.components.errors import NotReady
from faultline.components.fetching import once
from faultline.components.http import ask
from faultline.components.maven import FromMaven
from faultline.components.providers import FromAddress, Sources

MAIN = Path(__file__).with_name("OpenSearchNode.java")
LOGGING = """status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.node.name = org.opensearch.node
logger.node.level = info
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSearch:
    """Ready when it has a cluster manager and no index lacks data; a node that joins, when it is in.

    What was acknowledged survives a killed process. No TLS and no users: it is on loopback.
    """

    name: ClassVar[str] = "opensearch"
    purpose: ClassVar[str] = "full-text search, facets, logs"
    sources: ClassVar[Sources] = Sources(
        "opensearch",
        (FromAddress("LAB_OPENSEARCH_URL"), FromMaven("opensearch.jars", "OpenSearch 2.19.6 (93 jars, Maven)")),
        f"{java.INSTALL}. Or give one that runs: LAB_OPENSEARCH_URL=http://127.0.0.1:9200",
    )
    ports: ClassVar[Mapping[str, int]] = {"http": 9200, "transport": 9300}
    patience: ClassVar[float] = 120.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 20.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 273_500_000
    disk: ClassVar[int] = 54_600_000

    megabytes: int = 256
    """Its heap; it takes about 100 MB besides."""
    joins: Address | None = None
    """A node of the cluster to join. Without it the node founds one. A node that joined finds the others again."""
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    """Any other setting of opensearch.yml, such as `{"node.attr.zone": "a"}`."""

    def url(self, host: str, port: int) -> str:
        """What opensearch-py takes."""
        return f"http://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """The class that starts it, compiled once, and folders; a node's first start asks where to join."""
        await once(_classes(site), lambda draft: _compile(site, draft))
        for name in ("config", "tmp", "data", "snapshots"):
            (site.folder / name).mkdir(exist_ok=True)
        (site.folder / "config" / "log4j2.properties").write_text(LOGGING)
        seeds = site.folder / "config" / "unicast_hosts.txt"  # which the node itself goes on with
        if self.joins and not seeds.exists():
            seeds.write_text(f"{await _transport(f'http://{self.joins.host}:{self.joins.port}')}\n")

    def command(self, site: Site) -> Command:
        """No memory map (many systems allow too few), no look at how full the disk is; all in its own folder."""
        settings = {
            "path.home": str(site.folder),
            "path.data": str(site.data),
            "path.repo": str(site.folder / "snapshots"),
            "cluster.name": "faultline",
            "node.name": site.name,
            "network.host": site.host,
            "http.port": str(site.ports["http"]),
            "transport.port": str(site.ports["transport"]),
            "discovery.seed_providers": "file",
            "node.store.allow_mmap": "false",
            "cluster.routing.allocation.disk.threshold_enabled": "false",
        }
        if not self.joins:
            settings["cluster.initial_cluster_manager_nodes"] = site.name
        options = [
            *java.heap(self.megabytes),
            *java.LEAN,
            f"-Djava.io.tmpdir={site.folder / 'tmp'}",
            f"-Dlog4j2.configurationFile={site.folder / 'config' / 'log4j2.properties'}",
            "-Dlog4j2.disable.jmx=true",
            "-Dio.netty.noUnsafe=true",
            "-Dio.netty.allocator.numDirectArenas=0",
        ]
        words = [f"{name}={value}" for name, value in (settings | dict(self.config)).items()]
        return Command([str(site.program.path), *options, "-cp", f"{_classes(site)}:{_jars(site)}", MAIN.stem, *words])

    async def ready(self, url: str) -> None:
        """Asks for the health of the cluster."""
        answer = await ask(f"{url.rstrip('/')}/_cluster/health?timeout=1s")
        if answer.status != 200:
            raise NotReady(f"it has no cluster manager yet (HTTP {answer.status})")
        health = json.loads(answer.body)
        if self.joins and health["number_of_nodes"] < 2:
            raise NotReady(f"it has not joined the cluster of {self.joins.host}:{self.joins.port} yet")
        if health["status"] == "red" and not self.joins:
            raise NotReady(f"{health['unassigned_shards']} shards are not there yet")

    @staticmethod
    def release(data: Path) -> None:
        """The kernel frees the lock on its data."""


def _jars(site: Site) -> str:
    assert site.program.folder
    return ":".join(map(str, sorted(site.program.folder.glob("*.jar"))))


def _classes(site: Site) -> Path:
    """Made anew for another Java, other jars, or another source."""
    key = hashlib.sha256(repr((site.program.real_path, str(site.program.folder))).encode() + MAIN.read_bytes())
    return site.cache / f"opensearch-{key.hexdigest()[:12]}"


async def _compile(site: Site, draft: Path) -> None:
    compiler = ("-m", "jdk.compiler/com.sun.tools.javac.Main")  # Debian's plain JRE has it, too, without `javac`
    await site.run(site.program.path, *compiler, "-proc:none", "-d", draft, "-cp", _jars(site), MAIN)


async def _transport(url: str) -> str:
    """Where the node that answers HTTP there talks to other nodes."""
    answer = await ask(f"{url}/_nodes/_local/transport?filter_path=nodes.*.transport.publish_address")
    (node,) = json.loads(answer.body)["nodes"].values()
    return str(node["transport"]["publish_address"])
