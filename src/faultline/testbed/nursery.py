"""The nursery: a small process, forked before the event loop exists, that forks the learner's processes.

It has the clients imported, so a learner's process is there in milliseconds, and it holds none of the grader's
connections, so killing or pausing a learner's process touches nothing else. It reaps its children and tells the
grader how each ended.
"""

import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Self

import msgspec

from faultline.testbed.errors import TestbedError
from faultline.testbed.learner import Birth, live


class Born(msgspec.Struct, frozen=True, tag=True):
    """A process was forked."""

    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A process has ended and was reaped; `code` as `subprocess` says it (negative: a signal)."""

    pid: int
    code: int


_news = msgspec.msgpack.Decoder(Born | Exited)


class Nursery:
    """The grader's end: asks for processes, hears of their ends."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self._pid = pid
        self._births: asyncio.Queue[int] = asyncio.Queue()
        self._watchers: dict[int, Callable[[int], None]] = {}
        self._early: dict[int, int] = {}
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    def forked(cls) -> Self:
        """Fork the nursery; call it before anything opens a connection or starts an event loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run(theirs)
        theirs.close()
        ours.setblocking(False)
        return cls(ours, pid)

    def attach(self) -> None:
        """Begin to listen, on the running loop; each check has a loop of its own."""
        self._births = asyncio.Queue()
        self._one_at_a_time = asyncio.Lock()
        asyncio.get_running_loop().add_reader(self._control, self._hear)

    def detach(self) -> None:
        """Stop listening; the processes are the testbed's to end."""
        asyncio.get_running_loop().remove_reader(self._control)

    def close(self) -> None:
        """End the nursery itself."""
        self._control.close()
        os.waitpid(self._pid, 0)

    async def birth(self, birth: Birth, connection: socket.socket, on_exit: Callable[[int], None]) -> int:
        """Fork one process that serves `connection`; returns its pid. `on_exit(code)` is called once, when it ends."""
        async with self._one_at_a_time:
            socket.send_fds(self._control, [msgspec.msgpack.encode(birth)], [connection.fileno()])
            async with asyncio.timeout(5):
                pid = await self._births.get()
        self._watchers[pid] = on_exit
        if pid in self._early:
            self._watchers.pop(pid)(self._early.pop(pid))
        return pid

    def _hear(self) -> None:
        while True:
            try:
                data = self._control.recv(4096)
            except BlockingIOError:
                return
            if not data:
                raise TestbedError("the nursery has died; the machine may be out of memory or processes")
            match _news.decode(data):
                case Born(pid):
                    self._births.put_nowait(pid)
                case Exited(pid, code) if pid in self._watchers:
                    self._watchers.pop(pid)(code)
                case Exited(pid, code):
                    self._early[pid] = code


def _run(control: socket.socket) -> None:
    """The nursery's own loop; ends when the grader closes its end."""
    os.closerange(3, control.fileno())  # nothing of the grader's may be kept open by a learner's process
    os.closerange(control.fileno() + 1, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 4096 else 4096)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        while True:
            ready, _, _ = select.select([control, wake_read], [], [])
            if wake_read in ready:
                os.read(wake_read, 4096)
                _reap(control)
            if control in ready:
                data, fds, _, _ = socket.recv_fds(control, 65536, 1)
                if not data:
                    break
                control.send(msgspec.msgpack.encode(Born(_fork(data, fds[0], control, (wake_read, wake_write)))))
    except (BrokenPipeError, ConnectionResetError):  # the grader is gone
        pass
    finally:
        os._exit(0)


def _fork(data: bytes, fd: int, control: socket.socket, wake: tuple[int, int]) -> int:
    birth = msgspec.msgpack.decode(data, type=Birth)
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    control.close()
    for end in wake:
        os.close(end)
    live(birth, socket.socket(fileno=fd))
    raise AssertionError("unreachable")


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        control.send(msgspec.msgpack.encode(Exited(pid, os.waitstatus_to_exitcode(status))))
