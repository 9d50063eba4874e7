"""What is written down about a running instance, so that it can be found by another command or after a crash."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

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
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    draft.rename(target)


def erase(record: Record) -> None:
    """The instance has ended."""
    (Path(record.folder) / "instance.json").unlink(missing_ok=True)


def read(folder: Path) -> list[Record]:
    """The records of one supervisor's folder, by name.

    One that cannot be read says only where its processes are. One that was copied or moved here with its clone says
    nothing of its processes' numbers either: they may be the other clone's.
    """
    records = list[Record]()
    for path in sorted(folder.resolve().glob("*/instance.json")):
        with suppress(FileNotFoundError):  # erased meanwhile
            record, here = _read(path), str(path.parent)
            records.append(record if record.folder == here else replace(record, folder=here, pid=None, started=None))
    return records


def _read(path: Path) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.MsgspecError:
        return Record(
            name=path.parent.name,
            component="unreadable",
            provider="",
            host="",
            port=0,
            url="",
            folder=str(path.parent),
            program="",
            since=now(),
            pid=None,
            started=None,
        )


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
                f"process {owner(folder) or '?'} already runs servers in {folder}; end it first (the lab: ./lab down)"
            ) from None
        me = look(os.getpid())
        assert me
        file.truncate(0)
        file.write(f"{me.pid} {me.started} {folder.resolve()}")
        file.flush()
        yield
        file.truncate(0)


def owner(folder: Path) -> int | None:
    """The pid of the supervisor that holds the folder now; looks without touching."""
    try:
        pid, started, place = (folder / OWNER).read_text().split(maxsplit=2)
        process = look(int(pid))
        # Another place: the folder was copied while somebody held the original.
        held = process is not None and process.started == int(started) and place == str(folder.resolve())
    except (OSError, ValueError):
        return None
    return process.pid if process and held else None
