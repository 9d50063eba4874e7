"""Processes below this one, as Linux lets a parent keep hold of them."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
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
    while children := children_of(os.getpid()) - set(spare):
        kill_with_all_below(children)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def kill_with_all_below(roots: Collection[int]) -> None:
    """SIGKILL to these and to every process below them; they must not have been waited for."""
    # Stopped first, so that none can start another while the rest is looked for. A root that ends before it was stopped
    # loses its children; who was found below it is killed all the same.
    found = {*roots} | below(roots)
    _signal(found, signal.SIGSTOP)
    _signal(found | below(found), signal.SIGKILL)


def children_of(pid: int) -> set[int]:
    """Its children, also those that have ended and wait to be reaped."""
    return _look_up()(pid)


def below(roots: Iterable[int]) -> set[int]:
    """Every process below these, also those that have ended and wait to be reaped."""
    look_up = _look_up()
    found = set[int]()
    level = set(roots)
    while level:
        level = set[int]().union(*map(look_up, level)) - found
        found |= level
    return found


def _look_up() -> Callable[[int], set[int]]:
    """How to find the children of a process: as the kernel lists them, or from a look at all processes."""
    if Path(f"/proc/self/task/{os.getpid()}/children").exists():
        return _listed
    families: dict[int, set[int]] = {}
    for child, parent in _parents():
        families.setdefault(parent, set()).add(child)
    return lambda pid: families.get(pid, set())


def _listed(pid: int) -> set[int]:
    found = set[int]()
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found.update(map(int, (thread / "children").read_bytes().split()))
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                yield int(entry.name), int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])


def _signal(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
