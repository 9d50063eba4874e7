"""What is written down about a running instance, so that it can be found by another command or after a crash."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from faultline.components.errors import FolderTaken
from faultline.components.processes import Kin, Process, look

OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Record:
    """One instance, as `instance.json` in its folder keeps it from before it starts until it has ended."""

    name: str
    component: str
    provider: str
    host: str
    port: int
    url: str
    folder: str
    program: str
    since: str
    """When it was started, ISO 8601 in UTC."""
    pid: int | None
    started: int | None
    """The pid's start tick; both are None for a server given by its address."""

    @property
    def kin(self) -> Kin:
        """How to find its processes."""
        leader = Process(self.pid, self.started or 0, 0, "?") if self.pid else None
        return Kin(Path(self.folder), self.program, leader)


def write(record: Record) -> None:
    """Replace the instance's record, whole or not at all."""
    target = Path(record.folder) / "instance.json"
    draft = target.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(record), indent=1))
    draft.rename(target)


def erase(record: Record) -> None:
    """The instance has ended."""
    (Path(record.folder) / "instance.json").unlink(missing_ok=True)


def read(folder: Path) -> list[Record]:
    """The records of one supervisor's folder, by name; one that a full disk cut short is passed over."""
    records = list[Record]()
    for path in sorted(folder.glob("*/instance.json")):
        try:
            records.append(Record(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return records


def now() -> str:
    """The time as records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the folder as its only supervisor; released by the kernel when this process dies.

    A forked child shares the hold until it ends, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OWNER).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(
                f"process {owner(folder) or '?'} already runs servers in {folder}; end it first"
            ) from None
        me = look(os.getpid())
        assert me
        file.truncate(0)
        file.write(f"{me.pid} {me.started}")
        file.flush()
        yield
        file.truncate(0)


def owner(folder: Path) -> int | None:
    """The pid of the supervisor that holds the folder now; looks without touching."""
    try:
        pid, started = (folder / OWNER).read_text().split()
    except (OSError, ValueError):
        return None
    process = look(int(pid))
    return process.pid if process and process.started == int(started) else None
