"""Processes below this one, as Linux lets a parent keep hold of them."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Become the parent of every descendant that loses its own, so that none can slip away."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def end_descendants(*, spare: Collection[int] = ()) -> None:
    """Kill everything below this process, without the children in `spare` and what is below them, and reap it.

    Returns when nothing is left. Call it in a subreaper.
    """
    while children := _below({os.getpid()}, generations=1) - set(spare):
        # Stopped first, so that none can start another while the rest is looked for.
        _signal(children | _below(children), signal.SIGSTOP)
        _signal(children | _below(children), signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def count_descendants() -> int:
    """How many processes are below this one, without those that have ended."""
    return len(_below({os.getpid()}))


def _below(roots: Collection[int], *, generations: int | None = None) -> set[int]:
    parents = dict(_parents())
    found = set[int]()
    level = set(roots)
    while level and generations != 0:
        level = {pid for pid, parent in parents.items() if parent in level} - found
        found |= level
        generations = None if generations is None else generations - 1
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Every process with its parent, also those that have ended and wait to be reaped."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                yield int(entry.name), int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])


def _signal(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
