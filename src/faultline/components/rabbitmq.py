"""RabbitMQ: a broker with its management pages and metrics, alone or as a node of a cluster."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar
from urllib.parse import urlsplit

from faultline.components.component import Command, Site
from faultline.components.debian import FromDebian
from faultline.components.errors import NotReady
from faultline.components.fetching import once
from faultline.components.providers import FromAddress, FromPath, Sources

NAMES = Path(__file__).with_name("faultline_names.erl")
PROTOCOL = b"AMQP\x00\x00\x09\x01"
START = b"\x01\x00\x00" + b"\x00\x0a\x00\x0a"  # a method frame on channel 0, its method `connection.start`
PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus")


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMQ:
    """Ready when it takes AMQP connections; the management pages answer earlier.

    No epmd: nodes of one supervisor find each other by files (faultline_names.erl), so nothing of it is shared with
    another lab or stays behind. Durable messages in durable queues survive a killed node.
    """

    name: ClassVar[str] = "rabbitmq"
    purpose: ClassVar[str] = "messages: exchanges, queues, quorum queues"
    sources: ClassVar[Sources] = Sources(
        "rabbitmq",
        (
            FromAddress("LAB_RABBITMQ_URL"),
            # A rabbitmq-server on PATH may be a wrapper that changes the user; rabbitmq-env lies beside the real one.
            FromPath(
                ("rabbitmq-env",),
                companions=("rabbitmq-server",),
                hideouts=("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"),
                version=r"rabbitmq_server-(\d+(?:\.\d+)+)",
            ),
            FromDebian(
                "rabbitmq.debs",
                "usr/lib/rabbitmq/bin/rabbitmq-env",
                "RabbitMQ 3.10 with Erlang 25 (Debian packages)",
                trial=("usr/lib/erlang/bin/erl", "-noinput", "-eval", "ok = crypto:start(), halt()."),
                rewrites={
                    "usr/lib/erlang/bin/erl": (b"ROOTDIR=/usr/lib/erlang", b'ROOTDIR=$(cd "$progdir/.." && pwd)')
                },
            ),
        ),
        "Debian: apt install rabbitmq-server. Or give one that runs: LAB_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:5672",
    )
    ports: ClassVar[Mapping[str, int]] = {
        "rabbitmq": 5672,
        "management": 15672,
        "metrics": 15692,
        "distribution": 25672,
    }
    patience: ClassVar[float] = 90.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 3.0  # all is on disk after 0.2; then it waits 6 for parts of itself
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 115_000_000
    disk: ClassVar[int] = 58_000_000

    joins: str | None = None
    """The name of another instance of this supervisor, to become a node of its cluster at the first start."""
    plugins: Sequence[str] = ()
    """Further ones of those it brings, such as `rabbitmq_stream`."""
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    """Any other line of rabbitmq.conf, such as `{"heartbeat": "10"}`."""

    def url(self, host: str, port: int) -> str:
        """What aio-pika takes; the user may do everything."""
        return f"amqp://guest:guest@{host}:{port}/"

    async def prepare(self, site: Site) -> None:
        """Configuration, the cluster's cookie, and the module by which its nodes find each other."""
        site.data.mkdir(exist_ok=True)
        _cookie(site)
        await once(_names(site), lambda draft: _compile(site, draft))
        (site.folder / "distribution.port").write_text(str(site.ports["distribution"]))
        (site.folder / "enabled_plugins").write_text(f"[{','.join((*PLUGINS, *self.plugins))}].\n")
        (site.folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in self._lines(site)))

    def _lines(self, site: Site) -> Sequence[tuple[str, str]]:
        lines = {
            "listeners.tcp.1": f"{site.host}:{site.ports['rabbitmq']}",
            "management.tcp.ip": site.host,
            "management.tcp.port": str(site.ports["management"]),
            "prometheus.tcp.ip": site.host,
            "prometheus.tcp.port": str(site.ports["metrics"]),
            "log.console": "true",
            "log.file": "false",
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "512MB",
            "collect_statistics_interval": "1000",
        }
        if self.joins:
            lines["cluster_formation.peer_discovery_backend"] = "classic_config"
            for number, node in enumerate((self.joins, site.name), 1):
                lines[f"cluster_formation.classic_config.nodes.{number}"] = f"{node}@localhost"
        return list((lines | dict(self.config)).items())

    def command(self, site: Site) -> Command:
        """Its script, which becomes the Erlang machine; every place that it would look at elsewhere is named here."""
        folder, erlang = site.folder, _erlang(site)
        names = ["-start_epmd", "false", "-epmd_module", NAMES.stem, "-pa", str(_names(site))]
        own_port = ["-erl_epmd_port", str(site.ports["distribution"])]  # RabbitMQ asks erl_epmd by name for its own
        environment = {
            "PATH": f"{erlang}:{site.environment.get('PATH', '')}",
            "HOME": str(_home(site)),
            "LANG": "C.UTF-8",
            "FAULTLINE_NODES": str(folder.parent),
            "ERL_FLAGS": " ".join([*names, *own_port]),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_ALLOW_INPUT": "1",  # by this the script does not stay as the parent, which hides the server
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1} +S 1:1",
            "RABBITMQ_NODENAME": f"{site.name}@localhost",
            "RABBITMQ_DIST_PORT": str(site.ports["distribution"]),
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(site.data),
        }
        return Command([str(site.program.companion("rabbitmq-server"))], environment)

    async def ready(self, url: str) -> None:
        """It begins the AMQP handshake; its listener opens last, when all queues are back."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port or self.ports["rabbitmq"])
        try:
            writer.write(PROTOCOL)
            frame = await reader.read(11)
        finally:
            writer.close()
        if frame[:3] + frame[7:] != START:
            raise NotReady(f"the handshake was answered by {frame!r}")

    @staticmethod
    def release(data: Path) -> None:
        """It keeps nothing elsewhere."""


def _erlang(site: Site) -> Path:
    """The folder of `erl` and `erlc`, in packages beside RabbitMQ's."""
    return site.program.path.parents[2] / "erlang" / "bin"


def _home(site: Site) -> Path:
    """What Erlang takes for the user's home; one for all nodes of a supervisor, which may talk to each other."""
    return site.folder.parent / ".erlang-home"


def _cookie(site: Site) -> None:
    """The secret by which nodes know each other: made once, complete or not there."""
    home = _home(site)
    home.mkdir(mode=0o700, exist_ok=True)
    draft, cookie = home / f"{site.name}.draft", home / ".erlang.cookie"
    draft.unlink(missing_ok=True)
    draft.write_text(secrets.token_hex(20))
    draft.chmod(0o400)
    with suppress(FileExistsError):
        cookie.hardlink_to(draft)
    draft.unlink()


def _names(site: Site) -> Path:
    """Where the compiled module lies, for this Erlang."""
    key = hashlib.sha256(NAMES.read_bytes() + str(site.program.path.parent.resolve()).encode()).hexdigest()[:12]
    return site.cache / f"faultline-names-{key}"


async def _compile(site: Site, draft: Path) -> None:
    compiler = _erlang(site) / "erlc"
    await site.run("env", f"HOME={_home(site)}", compiler if compiler.exists() else "erlc", "-o", draft, NAMES)
