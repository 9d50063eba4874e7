"""Processes as the kernel shows them in /proc: who they are, what belongs to them, and how they end.

A process is known by its pid *and* the tick it was started at, because pids are used again. A zombie counts as
gone: it runs no code and holds no port, and who reaps it is not ours to decide.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from time import monotonic

from faultline.components.errors import Unkillable

MARK = "LAB_INSTANCE"
GONE = {b"Z", b"X"}
STOPPED = {"T", "t"}


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it was when we looked."""

    pid: int
    started: int
    """Clock ticks between boot and its start; no clock change moves it."""
    parent: int
    state: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; another one under the same pid does not count."""
        return self.now() is not None

    def now(self) -> "Process | None":
        """The same process as it is now, or None once it is gone."""
        current = look(self.pid)
        return current if current is not None and current.started == self.started else None


def look(pid: int) -> Process | None:
    """The process that has this pid now; None where there is none or only a zombie."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    state, parent, *rest = text[text.rindex(b")") + 2 :].split(maxsplit=20)
    if state in GONE and int(rest[15]) <= 1:  # else its first thread has ended and others still hold its files
        return None
    return Process(pid, int(rest[17]), int(parent), state.decode())


@dataclass(frozen=True, slots=True)
class Kin:
    """How to recognise what belongs to one instance, also when its first process is gone.

    A process belongs when it descends from the leader, when it was given the instance's mark, or when it runs the
    instance's program inside the instance's folder (a server may erase its environment, a shell may sit there). Where
    the program is not known, because the record was lost, printing its errors to a file of the folder tells as much.
    """

    folder: Path
    program: str
    leader: Process | None

    def members(self) -> list[Process]:
        """All that belong and run now, the leader first."""
        earliest = self.leader.started if self.leader else 0
        found = dict[int, Process]()
        for process in sorted(_all(), key=lambda process: (process.started, process.pid)):
            if process.started >= earliest and (process.parent in found or self._recognises(process)):
                found[process.pid] = process
        return list(found.values())

    def _recognises(self, process: Process) -> bool:
        if self.leader and (process.pid, process.started) == (self.leader.pid, self.leader.started):
            return True
        place = f"/proc/{process.pid}"
        try:
            cwd = os.readlink(f"{place}/cwd")  # noqa: PTH115 -- for every process of the machine, and Path is slow
            exe = os.readlink(f"{place}/exe")  # noqa: PTH115 -- likewise
            if f"{cwd}/".startswith(f"{self.folder}/") and exe.removesuffix(" (deleted)") == self.program:
                return True
            if f"{MARK}={self.folder}".encode() in _read(f"{place}/environ").split(b"\0"):
                return True
            return not self.program and os.readlink(f"{place}/fd/2").startswith(f"{self.folder}/")  # noqa: PTH115
        except OSError:  # ended meanwhile, a kernel thread, or somebody else's
            return False


def _all() -> Iterator[Process]:
    for entry in os.listdir("/proc"):  # noqa: PTH208 -- likewise
        if entry.isdecimal() and (process := look(int(entry))):
            yield process


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)  # half the time of open(), and there is one for every process of the machine
    try:
        return os.read(file, 65_536)
    finally:
        os.close(file)


def spawn(
    argv: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: Path | None
) -> "subprocess.Popen[bytes]":
    """Start a program in its own session, to be killed by the kernel when this process dies.

    What it prints is added to `output`, or goes where this process prints.
    That death needs `setpriv` (util-linux); without it, or when the program changes its user, a record is what
    finds the orphan. The calling thread must live as long as the program: the kernel watches threads.
    """
    with output.open("ab") if output else nullcontext() as log:
        return subprocess.Popen(
            tied(argv, environment),
            cwd=folder,
            env={MARK: str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )


def tied(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command that runs this program and is killed by the kernel when the process that starts it dies."""
    setpriv = shutil.which("setpriv", path=environment.get("PATH"))
    return [setpriv, "--pdeathsig=KILL", "--", *argv] if setpriv else list(argv)


async def run(
    argv: Sequence[str], *, folder: Path, environment: Mapping[str, str], shown: bool = False
) -> tuple[int, str]:
    """A program that ends by itself: its exit code and the end of what it said, unless that was shown as it came.

    Cancelled, it is killed first.
    """
    with tempfile.NamedTemporaryFile() as output:
        process = spawn(argv, folder=folder, environment=environment, output=None if shown else Path(output.name))
        try:
            if leader := look(process.pid):
                await ended(leader)
        finally:
            with suppress(ProcessLookupError):  # it was not waited for yet, so the number is still its own
                os.killpg(process.pid, SIGKILL)  # also what it has left in its session
            code = process.wait()
        return code, tail(Path(output.name))


def tail(log: Path, *, after: int = 0, lines: int = 40) -> str:
    """The last lines that were written after so many bytes; some servers say why they end long before they have."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(after, size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


async def ended(process: Process, *, within: float = inf) -> bool:
    """Wait until the process is gone; False when it still runs after that many seconds."""
    try:
        watch = os.pidfd_open(process.pid)
    except OSError:  # gone, or a kernel without pidfd
        return await _until(lambda: not process.alive, within=within)
    try:
        if not process.alive:  # the watch may be on a successor with the same pid
            return True
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(watch, readable.set)
        try:
            async with asyncio.timeout(within):
                await readable.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(watch)
        return True
    finally:
        os.close(watch)


async def kill(kin: Kin, *, within: float = 10.0) -> None:
    """SIGKILL to all that belongs, at once; returns when none of it is left."""
    deadline = monotonic() + within
    for member in kill_now(kin):
        if not await ended(member, within=max(deadline - monotonic(), 0)):
            raise Unkillable(
                f"process {member.pid} still runs {within:.0f} s after SIGKILL; "
                f"look at it with: ps -o pid,stat,wchan,args -p {member.pid}"
            )


def kill_now(kin: Kin) -> list[Process]:
    """SIGKILL to all that belongs, without waiting; what was sent it.

    They are stopped first, so that none can start another or notice that its sibling has died.
    """
    members = _stop_now(kin)
    send(members, SIGKILL)
    return members


async def pause(kin: Kin, *, within: float = 5.0) -> None:
    """SIGSTOP to all that belongs; returns when the kernel shows every one of them stopped."""
    if not await _until(lambda: all(m.state in STOPPED for m in _stop_now(kin)), within=within):
        raise Unkillable(f"not all processes in {kin.folder} stopped within {within:.0f} s after SIGSTOP")


async def resume(kin: Kin, *, within: float = 5.0) -> None:
    """SIGCONT to all that belongs; returns when the kernel shows none of them stopped."""
    send(reversed(kin.members()), SIGCONT)
    if not await _until(lambda: all(m.state not in STOPPED for m in kin.members()), within=within):
        raise Unkillable(f"not all processes in {kin.folder} went on within {within:.0f} s after SIGCONT")


def send(processes: Iterable[Process], number: Signals) -> None:
    """A signal to each of these very processes; those gone are passed over."""
    for process in processes:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


def memory(processes: Iterable[Process]) -> int:
    """Bytes they hold together; a page shared by n processes counts 1/n for each (PSS)."""
    return sum(map(_share, processes))


def _share(process: Process) -> int:
    try:
        rows = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))


def _stop_now(kin: Kin) -> list[Process]:
    known = set[int]()
    while True:
        members = kin.members()
        fresh = [member for member in members if member.pid not in known]
        if not fresh:
            return members
        send(fresh, SIGSTOP)
        known |= {member.pid for member in fresh}


async def _until(condition: Callable[[], bool], *, within: float) -> bool:
    deadline = monotonic() + within
    while not condition():
        if monotonic() > deadline:
            return False
        await asyncio.sleep(0.002)
    return True
