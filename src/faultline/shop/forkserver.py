"""All services of one machine: imports once, then one real process each, started again when it dies.

    fork-server ──┬── catalog-1        kill -9: started again, at once; if it dies young, after a pause that doubles
                  ├── catalog-2
                  └── inventory-1

Separate interpreters for so many services take seconds and hundreds of megabytes, mostly for the same imports. Here
they are made before the fork, so that their memory is shared; threads, event loops, connections and channels are each
child's own. One thread, no event loop: nothing that a fork could cut in two. Who is killed from outside is not missed
silently: its end is logged with its signal.

SIGTERM ends the children in order, those that do not within `grace` by SIGKILL, then itself. When it is killed, the
kernel kills its children.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from signal import SIGCHLD, SIGINT, SIGKILL, SIGTERM, Signals
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from faultline.shop import logs
from faultline.shop.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from faultline.shop.topology import Replica

    Run = Callable[[Settings], None]

HEARD = {SIGCHLD, SIGTERM, SIGINT}
YOUNG = 2.0  # seconds; who dies younger is not started again at once
PAUSES = (0.1, 5.0)  # seconds before the first such start, and at most
STATE = "services.json"
SHARED = ("aio_pika", "pydantic.v1", "uvicorn.lifespan.off", "uvicorn.protocols.http.auto", "uvloop")
"""What each child would import by itself, late, and have for itself."""
SET_DEATH_SIGNAL, SET_NAME = 1, 15  # of prctl(2)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Child:
    """One replica: its process, if it has one now, and when it is due to get the next."""

    replica: Replica
    run: Run
    settings: Settings
    pid: int = 0
    begun: float = 0.0
    due: float = 0.0
    pause: float = PAUSES[0]
    starts: int = 0


class ForkServer:
    """Runs each replica in a child of this process until it is told to end; see the module.

    `folder`: where `services.json` says who runs as what, and each replica's log lies; None: nowhere, and logs go to
    the standard output.
    """

    def __init__(
        self, runs: Mapping[Replica, Run], environment: Mapping[str, str], *, folder: Path | None, grace: float
    ) -> None:
        """Talk to nobody yet; raises `BadSettings` for what no replica could start with. `grace`: seconds."""
        self._children = [Child(replica, run, Settings.read(environment, replica)) for replica, run in runs.items()]
        self._folder = folder
        self._grace = grace

    def run(self) -> None:
        """Start them all, and start again who dies, until SIGTERM or SIGINT; returns when all have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        gc.collect()
        gc.freeze()
        try:
            while True:
                self._start_those_due()
                match self._heard():
                    case Signals.SIGTERM | Signals.SIGINT:
                        return
                    case _:
                        self._reap()
        finally:
            self._end()

    def _start_those_due(self) -> None:
        now = monotonic()
        due = [child for child in self._children if not child.pid and child.due <= now]
        for child in due:
            child.pid, child.begun, child.starts = self._fork(child), now, child.starts + 1
        if due:
            self._tell()

    def _heard(self) -> Signals | None:
        waiting = [child.due for child in self._children if not child.pid]
        if not waiting:
            return Signals(signal.sigwait(HEARD))
        found = signal.sigtimedwait(HEARD, max(min(waiting) - monotonic(), 0.0))
        return Signals(found.si_signo) if found else None

    def _reap(self) -> None:
        """Note who has ended; signals of several are heard as one."""
        children = {child.pid: child for child in self._children}
        while ended := _ended():
            pid, code = ended
            if not (child := children.get(pid)):
                continue
            lived = monotonic() - child.begun
            child.pause = PAUSES[0] if lived >= YOUNG else min(2 * child.pause, PAUSES[1])
            child.pid, child.due = 0, monotonic() + (0.0 if lived >= YOUNG else child.pause)
            told = {"replica": child.replica.name, "pid": pid, "code": code, "seconds": round(lived, 1)}
            log.warning("ended by itself, and is started again", extra=told)
            self._tell()

    def _fork(self, child: Child) -> int:
        parent = os.getpid()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._live(child, parent)
        return pid

    def _live(self, child: Child, parent: int) -> NoReturn:
        """The child's whole life; it never returns into what the parent was doing."""
        code = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.prctl(SET_DEATH_SIGNAL, SIGKILL, 0, 0, 0)
            libc.prctl(SET_NAME, child.replica.name.encode()[:15], 0, 0, 0)
            if os.getppid() != parent:  # it died before the kernel was asked
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
            if self._folder:
                out = os.open(self._folder / f"{child.replica.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.close(out)
            child.run(child.settings)
            code = 0
        except BaseException:  # not into the parent's code: its log is the last to hear of it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _end(self) -> None:
        """SIGTERM to all, SIGKILL to who has not ended after `grace`; nobody is left."""
        left = {child.pid for child in self._children if child.pid}
        _send(left, SIGTERM)
        until = monotonic() + self._grace
        while left:
            while ended := _ended():
                left.discard(ended[0])
            if left and signal.sigtimedwait({SIGCHLD}, max(until - monotonic(), 0.0)) is None:
                _send(left, SIGKILL)
                until = monotonic() + 1.0
        for child in self._children:
            child.pid = 0
        self._tell()

    def _tell(self) -> None:
        """Replace what the file says, whole or not at all."""
        if not self._folder:
            return
        state = [
            {
                "name": child.replica.name,
                "pid": child.pid or None,
                "port": child.settings.port,
                "rpc_port": child.settings.rpc_port,
                "starts": child.starts,
            }
            for child in self._children
        ]
        draft = self._folder / f"{STATE}.draft"
        draft.write_text(json.dumps(state, indent=1))
        draft.rename(self._folder / STATE)


def _ended() -> tuple[int, int] | None:
    """A child that has ended, and how (negative: a signal); None if none has."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def _send(pids: Iterable[int], number: Signals) -> None:
    for pid in pids:  # ours, and not waited for yet: the numbers are nobody else's
        os.kill(pid, number)


def main(runs: Mapping[Replica, Run], environment: Mapping[str, str], *, folder: Path | None) -> None:
    """The fork-server as a process."""
    logs.configure("fork-server")
    for name in SHARED:
        import_module(name)
    drain = max(Settings.read(environment, replica).drain for replica in runs)
    ForkServer(runs, environment, folder=folder, grace=drain + 3.0).run()
