"""A process of the learner's with all that it has started, and whether that is too much for this machine."""

import mmap
from collections.abc import Collection
from pathlib import Path

MOST = 128  # processes at once: a pool on a large machine, and no flood
MEMORY = 2 * 2**30  # bytes that they hold together


def excess(family: Collection[int]) -> str:
    """What is too much, or ""."""
    if len(family) > MOST:
        return f"it and what it had started were {len(family)} processes; {MOST} may run at once"
    if sum(map(_resident, family)) > MEMORY and (held := sum(map(_share, family))) > MEMORY:
        return f"it and what it had started held {held / 2**30:.1f} GB of memory; {MEMORY / 2**30:.0f} GB are allowed"
    return ""


def _resident(pid: int) -> int:
    """Bytes that it holds; those it shares count in full."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * mmap.PAGESIZE
    except OSError:  # it has ended
        return 0


def _share(pid: int) -> int:
    """Bytes that it holds; those that n processes share count one n-th. Slower to ask for."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))
