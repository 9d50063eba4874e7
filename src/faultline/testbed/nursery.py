"""The nursery: a small process, forked before the event loop exists, that forks the learner's processes.

It has the clients imported, so a learner's process is there in milliseconds, and it holds none of the grader's
connections, so killing or pausing a learner's process touches nothing else. It reaps its children, ends what they
leave running, also what has detached itself, ends a family that grows too large, and tells the grader how each
ended. When the grader dies, so does the nursery, and with it every learner's process, also one that blocks or stands
still.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Self

import msgspec

from faultline.testbed.descendants import become_subreaper, below, end_descendants
from faultline.testbed.errors import TestbedError
from faultline.testbed.family import excess
from faultline.testbed.learner import Birth, live
from faultline.testbed.parent_death import die_with_parent

_BORN_WITHIN = 5.0  # seconds
_HIGHEST_FD = 4096
_LOOK_EVERY = 0.1  # seconds


class Born(msgspec.Struct, frozen=True, tag=True):
    """The process that was asked for as number so and so was forked."""

    number: int
    pid: int


class Stillborn(msgspec.Struct, frozen=True, tag=True):
    """The system refused to fork."""

    number: int
    why: str


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A process has ended and was reaped; `code` as `subprocess` says it (negative: a signal).

    `why` is what it had done when the nursery ended it.
    """

    number: int
    code: int
    why: str = ""


_News = Born | Stillborn | Exited
_news: "msgspec.msgpack.Decoder[_News]" = msgspec.msgpack.Decoder(_News)
OnExit = Callable[[int | None, str], None]


class Nursery:
    """The grader's end: asks for processes, hears of their ends."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self._control = control
        self._births: dict[int, asyncio.Future[int]] = {}
        self._watchers: dict[int, OnExit] = {}
        self._count = 0
        self._dead = False
        self._attached = 0
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    def forked(cls) -> Self:
        """Fork the nursery; call it before anything opens a connection or starts an event loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        grader = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run(theirs, grader)
        theirs.close()
        ours.setblocking(False)
        return cls(ours, pid)

    def attach(self) -> None:
        """Begin to listen, on the running loop; several testbeds of one loop may share the nursery."""
        self._attached += 1
        if self._attached == 1:
            self._one_at_a_time = asyncio.Lock()
            asyncio.get_running_loop().add_reader(self._control, self._hear)

    def detach(self) -> None:
        """Stop listening when the last testbed leaves; the processes are the testbeds' to end."""
        self._attached -= 1
        if self._attached == 0:
            asyncio.get_running_loop().remove_reader(self._control)

    def close(self) -> None:
        """End the nursery itself, also one that stands still."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        os.waitpid(self.pid, 0)

    async def birth(self, birth: Birth, connection: socket.socket, on_exit: OnExit) -> int:
        """Fork one process that serves `connection`; returns its pid.

        `on_exit(code, why)` is called once, when it ends; with None when the nursery died and nobody can know any more.
        """
        async with self._one_at_a_time:
            if self._dead:
                raise self._death()
            self._count += 1
            born: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._births[self._count] = born
            self._watchers[self._count] = on_exit
            try:
                socket.send_fds(self._control, [msgspec.msgpack.encode(birth)], [connection.fileno()])
                async with asyncio.timeout(_BORN_WITHIN):
                    while not born.done():
                        os.kill(self.pid, signal.SIGCONT)  # whoever has stopped it, also meanwhile
                        await asyncio.wait([born], timeout=_LOOK_EVERY)
                    return born.result()
            except TimeoutError:
                raise TestbedError(f"no process was forked within {_BORN_WITHIN:g} s; this machine is busy") from None
            except OSError as error:
                raise self._death() from error

    def _hear(self) -> None:
        while True:
            try:
                data = self._control.recv(4096)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._lose()
                return
            self._take(_news.decode(data))

    def _take(self, news: _News) -> None:
        match news:
            case Exited(number, code, why):
                self._watchers.pop(number)(code, why)
            case Born(number, pid):
                born = self._births.pop(number)
                if not born.done():  # otherwise whoever wanted it has hung up, so it leaves by itself
                    born.set_result(pid)
            case Stillborn(number, why):
                del self._watchers[number]
                born = self._births.pop(number)
                if not born.done():
                    born.set_exception(TestbedError(f"no process could be started: {why}; end some, then try again"))

    def _lose(self) -> None:
        self._dead = True
        asyncio.get_running_loop().remove_reader(self._control)
        for born in self._births.values():
            if not born.done():
                born.set_exception(self._death())
        for watcher in self._watchers.values():
            watcher(None, "")
        self._births, self._watchers = {}, {}

    @staticmethod
    def _death() -> TestbedError:
        return TestbedError("the nursery has died; this machine may be out of memory or processes")


def _run(control: socket.socket, grader: int) -> None:
    """The nursery's own loop; ends when the grader closes its end, or dies."""
    try:
        die_with_parent(signal.SIGKILL, parent=grader)
        os.closerange(3, control.fileno())  # nothing of the grader's may be kept open by a learner's process
        os.closerange(control.fileno() + 1, min(_HIGHEST_FD, os.sysconf("SC_OPEN_MAX")))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _Cradle(control).rock()
    except (BrokenPipeError, ConnectionResetError):  # the grader is gone
        pass
    finally:
        os._exit(0)


class _Cradle:
    """The nursery's inside: the processes that run, by pid, with their numbers."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._numbers: dict[int, int] = {}
        self._excesses: dict[int, str] = {}
        self._count = 0
        self._wake_read, self._wake_write = os.pipe()

    def rock(self) -> None:
        """Fork, look and reap until the grader hangs up."""
        become_subreaper()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        looked = 0.0
        while True:
            patience = _LOOK_EVERY if self._numbers else None
            ready, _, _ = select.select([self._control.fileno(), self._wake_read], [], [], patience)
            if time.monotonic() > looked + _LOOK_EVERY:
                self._look()
                looked = time.monotonic()
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self._control, 65536, 1)
                if not data:
                    return
                self._count += 1
                self._tell(self._fork(data, fds[0]))

    def _fork(self, data: bytes, fd: int) -> Born | Stillborn:
        nursery = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(fd)
            return Stillborn(self._count, error.strerror or str(error))
        if pid == 0:
            self._become_learner(data, fd, nursery)
        with contextlib.suppress(OSError):  # parent and child both do it, so nobody can find the group missing
            os.setpgid(pid, pid)
        os.close(fd)
        self._numbers[pid] = self._count
        return Born(self._count, pid)

    def _become_learner(self, data: bytes, fd: int, nursery: int) -> None:
        try:
            die_with_parent(signal.SIGKILL, parent=nursery)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setpgid(0, 0)
            self._control.close()
            for end in (self._wake_read, self._wake_write):
                os.close(end)
            live(msgspec.msgpack.decode(data, type=Birth), socket.socket(fileno=fd))
        finally:
            os._exit(1)

    def _look(self) -> None:
        """End what has lost its parent, for nobody waits for it, and every family that is too large."""
        end_descendants(spare=self._numbers)
        for pid in self._numbers:
            if pid not in self._excesses and (why := excess({pid, *below({pid})})):
                self._excesses[pid] = why
                os.killpg(pid, signal.SIGKILL)  # what is not in its group is left without a parent

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            with contextlib.suppress(OSError):  # while the zombie holds the number, the group can be nobody else's
                os.killpg(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            if number := self._numbers.pop(ended.si_pid, 0):
                end_descendants(spare=self._numbers)
                why = self._excesses.pop(ended.si_pid, "")
                self._tell(Exited(number, os.waitstatus_to_exitcode(status), why))

    def _tell(self, news: _News) -> None:
        self._control.send(msgspec.msgpack.encode(news))
