"""The warm runner: a process with pytest and the clients imported, forked once a grading run.

`python -m faultline.engine.warm FD MODULE…` is its inside: it imports the modules, then takes one `RunRequest` a
message on the socket FD, each with the descriptor that gets the run's events. It has a session of its own, so
Ctrl-C reaches only the one who asked; when that one is gone, the socket says so, and every run ends.
"""

import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import msgspec

from faultline.engine.errors import RunnerDied
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import Ended, Event, from_line

CLIENTS = {"redis": ("redis.asyncio",), "postgres": ("psycopg",)}


class WarmRunner:
    """Grades solutions, several at once if asked from several threads; ends all runs when the block ends."""

    def __init__(self, components: Sequence[str]) -> None:
        """`components`: whose client libraries to import beforehand."""
        preload = [name for component in components for name in CLIENTS.get(component, ())]
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "faultline.engine.warm", str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            )

    def grade(self, request: RunRequest, cancelled: threading.Event | None = None) -> Iterator[Event]:
        """The events of one run as they come, `Ended` last; raises `RunnerDied` when the runner is gone.

        When `cancelled` is set, or the iterator is closed, the run is ended and no more events come.
        """
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
        self._process.wait()


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


def _serve(control: socket.socket) -> None:
    from faultline.engine.warden import oversee

    wardens: dict[int, int] = {}  # pid → descriptor that is readable when it has ended
    while True:
        ready, _, _ = select.select([control, *wardens.values()], [], [])
        for pid in [pid for pid, handle in wardens.items() if handle in ready]:
            os.close(wardens.pop(pid))
            os.waitpid(pid, 0)
        if control not in ready:
            continue
        data, fds, _, _ = socket.recv_fds(control, 2**20, 1)
        if not data:
            break
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                control.close()
                for handle in wardens.values():
                    os.close(handle)
                oversee(msgspec.msgpack.decode(data, type=RunRequest), fds[0])
                status = 0
            finally:
                os._exit(status)
        os.close(fds[0])
        wardens[pid] = os.pidfd_open(pid)
    for pid in wardens:
        os.kill(pid, signal.SIGTERM)
    for pid in wardens:
        os.waitpid(pid, 0)


def _main(arguments: Sequence[str]) -> None:
    descriptor, *preload = arguments
    for name in ("pytest", "asyncio", "faultline.engine.warden", *preload):
        importlib.import_module(name)
    with socket.socket(fileno=int(descriptor)) as control:
        _serve(control)



if __name__ == "__main__":
    _main(sys.argv[1:])
