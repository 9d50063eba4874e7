"""What the learner's process is refused: signals to the lab's processes, the answers, the lab's own files, a flood.

Python tells an audit hook what its code is about to do, and nothing can remove the hook. It turns an accident into
an error with its line, before any harm is done. It is no jail: a program that is started, or a call into C by ctypes,
passes it by.
"""

import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Refused(PermissionError):
    """The learner's code was kept from what it tried; nothing happened."""


def guard(*, hidden: Sequence[str], own: Sequence[str], starts: int) -> None:
    """Refuse from now on, in this process and in what it forks, for good.

    `hidden` are files and folders that nothing may be opened or changed in, except in the folders `own`; `starts` is
    how many processes may be started in all.
    """
    paths = _Hidden(hidden, own)
    checks: dict[str, Callable[[tuple[Any, ...]], None]] = {
        **dict.fromkeys(_ON_A_PATH, lambda arguments: paths.refuse(arguments[:1])),
        **dict.fromkeys(_ON_TWO_PATHS, lambda arguments: paths.refuse(arguments[:2])),
        **dict.fromkeys(("os.kill", "os.killpg"), _Lab().refuse),
        **dict.fromkeys(("os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"), _Flood(starts).refuse),
    }

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if check := checks.get(event):
            check(arguments)

    sys.addaudithook(hook)


_ON_A_PATH = (
    *("open", "os.chmod", "os.chown", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"),
    "sqlite3.connect",  # the learner's progress is kept in such a file
)
_ON_TWO_PATHS = ("os.link", "os.rename", "os.symlink")


class _Hidden:
    """Paths of the lab."""

    def __init__(self, hidden: Sequence[str], own: Sequence[str]) -> None:
        self._hidden = [os.path.realpath(path) for path in hidden]
        self._own = [os.path.realpath(path) for path in own]

    def refuse(self, arguments: tuple[Any, ...]) -> None:
        for argument in arguments:
            path = _real(argument)
            if path and _inside(path, self._hidden) and not _inside(path, self._own):
                raise Refused(f"{path} is the lab's; your code may neither open nor change it")


def _real(argument: Any) -> str:
    if not isinstance(argument, str | bytes | os.PathLike):
        return ""
    try:
        return os.path.realpath(os.fsdecode(argument))
    except (OSError, ValueError, TypeError):  # it cannot be opened either
        return ""


def _inside(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


class _Lab:
    """The processes above this one: nursery, grader, warden, runner, the command, the learner's shell."""

    def __init__(self) -> None:
        self._pids = _ancestors()
        self._pids |= {os.getpgid(pid) for pid in self._pids} - {0}  # 0: not to be seen from here

    def refuse(self, arguments: tuple[Any, ...]) -> None:
        target, number = arguments
        if target == -1:
            raise Refused(f"signal {number} to every process of this user")
        if abs(target) in self._pids:  # a negative number is a group
            raise Refused(f"signal {number} to process {target}, which your code has not started")


def _ancestors() -> set[int]:
    found = set[int]()
    pid = os.getppid()
    while pid > 0:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:  # somebody else's, and hidden from us
            break
    return found


class _Flood:
    """Too many processes; the count is shared with all that are forked."""

    def __init__(self, starts: int) -> None:
        self._starts = starts
        self._count = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def refuse(self, _: tuple[Any, ...]) -> None:
        self._count[0] += 1
        if self._count[0] > self._starts:
            raise Refused(f"more than {self._starts} processes started")
