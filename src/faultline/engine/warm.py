"""The warm runner: a process with pytest and the clients imported, forked once a grading run.

`python -m faultline.engine.warm FD MODULE…` is its inside: it imports the modules, then takes one `RunRequest` a
message on the socket FD, each with the descriptor that gets the run's events. It has a session of its own, so
Ctrl-C reaches only the one who asked; when that one is gone, the socket says so, and every run ends. Should a
warden be killed, what it watched over falls to the runner, which ends it.
"""

import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from faultline.components import Clone
from faultline.engine.errors import RunnerDied
from faultline.engine.run_folders import owner_mark, remove
from faultline.engine.run_request import RunRequest
from faultline.engine.shared_servers import SHARED, SharedServers
from faultline.engine.verdicts import Ended, Event, from_line
from faultline.testbed.descendants import become_subreaper, end_descendants

CLIENTS = {"redis": ("redis.asyncio",), "postgres": ("psycopg",), "rabbitmq": ("aio_pika",)}


class WarmRunner:
    """Grades solutions, several at once if asked from several threads; ends all runs when the block ends."""

    def __init__(self, components: Sequence[str]) -> None:
        """`components`: whose client libraries to import beforehand."""
        preload = [name for component in components for name in CLIENTS.get(component, ())]
        self._shared = SharedServers(_environment()) if set(SHARED) & set(components) else None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "faultline.engine.warm", str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env=_environment(),
            )

    @property
    def pid(self) -> int:
        """Its process, as long as the block lasts."""
        return self._process.pid

    def grade(self, request: RunRequest, cancelled: threading.Event | None = None) -> Iterator[Event]:
        """The events of one run as they come, `Ended` last; raises `RunnerDied` when the runner is gone.

        When `cancelled` is set, or the iterator is closed, the run is ended and no more events come.
        """
        if self._shared:
            broker = self._shared.broker(cancelled or threading.Event())
            if broker is None:
                return
            request = msgspec.structs.replace(request, broker=broker)
        read, write = os.pipe()
        try:
            try:
                socket.send_fds(self._control, [msgspec.msgpack.encode(request)], [write])
            except OSError as error:
                raise RunnerDied(f"the runner cannot be reached: {error}") from error
            finally:
                os.close(write)
            for line in _lines(read, cancelled or threading.Event()):
                event = from_line(line)
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            os.close(read)  # the warden sees that nobody listens, and ends the run
        if cancelled is None or not cancelled.is_set():
            raise RunnerDied("the run ended without a word; a process of the lab was killed, or memory ran out")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._control.close()
        while self._process.returncode is None:
            with contextlib.suppress(KeyboardInterrupt):  # it is killing already, and nothing makes that quicker
                self._process.wait()
        if self._shared:
            self._shared.close()


def _lines(descriptor: int, cancelled: threading.Event) -> Iterator[bytes]:
    """The complete lines that come until the end, or until cancelled."""
    rest = b""
    while not cancelled.is_set():
        if not select.select([descriptor], [], [], 0.05)[0]:
            continue
        data = os.read(descriptor, 65536)
        if not data:
            return
        *complete, rest = (rest + data).split(b"\n")
        yield from complete


def _environment() -> dict[str, str]:
    """The environment of the runs: nothing in it may change what pytest does, and it says whose they are."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return plain | owner_mark(Clone.here().root) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@dataclass(frozen=True, slots=True)
class _Run:
    """One run that goes on: its warden, a descriptor that is readable when that has ended, its folder."""

    warden: int
    handle: int
    folder: Path


def _serve(control: socket.socket) -> None:
    become_subreaper()
    runs: dict[int, _Run] = {}  # by handle
    while True:
        ready, _, _ = select.select([control.fileno(), *runs], [], [])
        for handle in runs.keys() & set(ready):
            ended = runs.pop(handle)
            _reap(ended, others=[run.warden for run in runs.values()])
        if control.fileno() not in ready:
            continue
        data, fds, _, _ = socket.recv_fds(control, 2**20, 1)
        if not data:
            break
        run = _begin(msgspec.msgpack.decode(data, type=RunRequest), fds[0], [control.fileno(), *runs])
        runs[run.handle] = run
    for run in runs.values():
        os.kill(run.warden, signal.SIGTERM)
    for run in runs.values():
        _reap(run, others=[other.warden for other in runs.values() if other is not run])


def _begin(request: RunRequest, events: int, not_for_it: Sequence[int]) -> _Run:
    from faultline.engine.warden import oversee

    runner = os.getpid()
    warden = os.fork()
    if warden == 0:
        status = 1
        try:
            for descriptor in not_for_it:
                os.close(descriptor)
            oversee(request, events, parent=runner)
            status = 0
        finally:
            os._exit(status)
    os.close(events)
    return _Run(warden, os.pidfd_open(warden), Path(request.folder))


def _reap(run: _Run, *, others: Sequence[int]) -> None:
    """Take note of a warden's end; if it was no good one, end what it has left: by now its children are ours."""
    _, status = os.waitpid(run.warden, 0)
    os.close(run.handle)
    if status:
        end_descendants(spare=others)
        remove(run.folder)


def _main(arguments: Sequence[str]) -> None:
    descriptor, *preload = arguments
    for name in ("pytest", "asyncio", "faultline.engine.warden", *preload):
        importlib.import_module(name)
    with socket.socket(fileno=int(descriptor)) as control:
        _serve(control)


if __name__ == "__main__":
    _main(sys.argv[1:])
