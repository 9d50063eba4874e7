"""Whether there is room to begin with: better refused at once than broken in the middle."""

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

ENOUGH = 8 * 2**20
"""Bytes that the logs, records and data of a few small servers fit into."""
MEMORY = Path("/dev/shm")  # noqa: S108 -- each clone has a folder of its own there, and only what is its user's
PLENTY = 4 * 2**30
"""Bytes that all that many servers write at once fits into ten times."""


def memory_of(root: Path) -> Path:
    """The folder of a clone in memory, whether or not it is there: its name is known to who cleans up later."""
    return MEMORY / f"faultline-{os.getuid()}-{hashlib.sha256(bytes(root.resolve())).hexdigest()[:12]}"


def in_memory(root: Path) -> Path | None:
    """That folder, made; None if the machine has no such place, not enough of it, or somebody else has the name.

    For what is thrown away in a minute, a disk is the longer way: servers' files come and go by the thousand.
    """
    folder = memory_of(root)
    try:
        free = os.statvfs(MEMORY)
        if min(free.f_bavail * free.f_frsize, available_memory()) < PLENTY:
            return None
        folder.mkdir(mode=0o711, exist_ok=True)  # servers that refuse root run as somebody else
        made = folder.lstat()
    except OSError:
        return None
    return folder if stat.S_ISDIR(made.st_mode) and made.st_uid == os.getuid() else None


def available_memory() -> int:
    """Bytes of memory that nobody needs."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def require_room(folder: Path) -> None:
    """Make the folder, and show that so much can be written there; raises the `OSError` that the system gave."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            os.posix_fallocate(trial.fileno(), 0, ENOUGH)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(folder)) from error
