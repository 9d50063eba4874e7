"""The learner's process: loads the solution and serves the grader's requests; runs nothing of the checks."""

import asyncio
import errno
import faulthandler
import importlib.util
import inspect
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from faultline.testbed import wire
from faultline.testbed.foreseeable import make_foreseeable
from faultline.testbed.guard import guard
from faultline.testbed.injected_clock import clock_at
from faultline.testbed.outgoing import Outgoing, find
from faultline.testbed.serving import serve
from faultline.testbed.wall_clock import shift_wall_clock

WHERE = signal.SIGRTMAX - 1  # on this signal the process writes where it is, also while it holds the interpreter
_LARGEST_FILE = 2**20  # bytes of the solution


class Birth(msgspec.Struct, frozen=True):
    """What a learner's process must know to begin."""

    name: str
    folder: str  # where the solution's files are
    module: str  # the file to load, without .py
    scratch: str  # folder of its own that it runs in, empty at first
    output: str  # file that gets stdout and stderr
    places: str  # file that gets the answer to `WHERE`
    hidden: Sequence[str] = ()  # files and folders that it has no business in
    starts: int = 200  # processes that it may start in all
    clock_offset: float = 0.0  # seconds by which its wall clock is wrong
    foreseeable: bool = False  # its wall clock stands still, and its `random` begins as in every such process
    memory: int = 2 * 2**30  # bytes of address space
    cpu: int = 60  # seconds
    file_size: int = 64 * 2**20  # bytes
    open_files: int = 1024


def live(birth: Birth, connection: socket.socket) -> None:
    """Be the learner's process until the grader hangs up; never returns."""
    status = 1
    try:
        _settle(birth)
        _keep_to_this_process(connection)
        asyncio.run(_serve(birth, connection))
        status = 0
    except BaseException:  # the last frame of a forked process: report, never unwind into the grader
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _settle(birth: Birth) -> None:
    output = os.open(birth.output, os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    os.close(output)
    os.close(nothing)
    # By line: a process that is killed flushes nothing.
    sys.stdout, sys.stderr = (
        os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False) for descriptor in (1, 2)
    )
    for limit, value in (
        (resource.RLIMIT_AS, birth.memory),
        (resource.RLIMIT_FSIZE, birth.file_size),
        (resource.RLIMIT_NOFILE, birth.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, birth.cpu),
    ):
        _, hard = resource.getrlimit(limit)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (allowed, allowed))
    os.chdir(birth.scratch)
    sys.path.insert(0, birth.folder)
    sys.argv = [f"{birth.module}.py"]
    sys.modules["__main__"] = ModuleType("__main__")  # not the grader's
    sys.dont_write_bytecode = True
    places = os.open(birth.places, os.O_WRONLY | os.O_APPEND)
    faulthandler.register(WHERE, file=places, all_threads=False)
    guard(hidden=birth.hidden, own=[birth.folder, birth.scratch], starts=birth.starts)
    if birth.clock_offset:
        shift_wall_clock(birth.clock_offset)
    if birth.foreseeable:
        make_foreseeable()


def _keep_to_this_process(connection: socket.socket) -> None:
    """What the learner's code forks must not answer the grader, nor take what is meant for its parent."""

    def forget() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, descriptor)
        os.close(nothing)

    descriptor = connection.fileno()
    os.register_at_fork(after_in_child=forget)


async def _serve(birth: Birth, connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    objects = _Objects(birth, lambda message: writer.write(wire.frame(message)))
    running: dict[int, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as tasks:
        while True:
            try:
                message = await wire.read_from_grader(reader)
            except (asyncio.IncompleteReadError, OSError):  # the grader has hung up
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)  # whatever the learner's tasks still do has no reader
            match message:
                case wire.Request(number):
                    running[number] = tasks.create_task(_answer(objects, number, objects.perform(message), writer))
                case wire.Serve(number, target, host, port):
                    serving = serve(objects.known(target), (host, port), tasks)
                    running[number] = tasks.create_task(_answer(objects, number, serving, writer))
                case wire.Cancel(number):
                    await asyncio.sleep(0)  # a task that is cancelled before its first step never runs at all
                    was_running = number in running and running[number].cancel()
                    writer.write(wire.frame(wire.CancelSeen(number, was_running)))
                case wire.Returned():
                    objects.outgoing.returned(message)
                case wire.Threw():
                    objects.outgoing.threw(message, objects.solution())
            running = {number: task for number, task in running.items() if not task.done()}


async def _answer(
    objects: "_Objects", number: int, performing: Coroutine[Any, Any, Any], writer: asyncio.StreamWriter
) -> None:
    try:
        value = await performing
        framed = wire.frame(wire.Reply(number, value))
    except BaseException as error:  # it is the learner's: reported, not handled
        if os.getpid() != objects.pid:
            traceback.print_exc()
            os._exit(1)
        framed = wire.frame(_failure(number, error, objects.folder))
    if os.getpid() != objects.pid:  # a fork of the learner's code has come back here; its parent is to answer
        os._exit(0)
    writer.write(framed)


def _their_tasks() -> list[str]:
    ours = {_serve.__code__, _answer.__code__}
    running = {task.get_name(): task.get_coro() for task in asyncio.all_tasks()}
    theirs = {name: coro for name, coro in running.items() if getattr(coro, "cr_code", None) not in ours}
    return sorted(f"{name} in {getattr(coro, '__qualname__', coro)}" for name, coro in theirs.items())


def _failure(number: int, error: BaseException, folder: Path) -> wire.Failure:
    theirs = [
        f"{Path(place.filename).name}:{place.lineno}"
        for place in traceback.extract_tb(error.__traceback__)
        if Path(place.filename).is_relative_to(folder)
    ]
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(folder):
        theirs.append(f"{Path(error.filename).name}:{error.lineno}")
    bases = [base.__name__ for base in type(error).__mro__]
    return wire.Failure(number, type(error).__name__, bases, _message(error), theirs[-1] if theirs else "")


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as worse:  # the learner's own `__str__`
        text = f"(its message cannot be read: {type(worse).__name__})"
    if limit := _limit_met(error):
        text = f"{text}; {limit}" if text else limit
    return text[:2000].encode(errors="replace").decode()


def _limit_met(error: BaseException) -> str:
    """What the message of the system does not say: how much is allowed."""
    if isinstance(error, MemoryError):
        return f"a process of yours may have {resource.getrlimit(resource.RLIMIT_AS)[0] / 2**30:.3g} GB of memory"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return f"a file, and all that is printed, may have {size / 2**20:.0f} MB"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"a process of yours may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files open"
    return ""


class _Objects:
    """Everything that the grader holds a reference to, by number; 0 is the solution itself."""

    def __init__(self, birth: Birth, send: Callable[[wire.ToGrader], None]) -> None:
        self.outgoing = Outgoing(send, self._outbound, self._inbound)
        self.pid = os.getpid()
        self.folder = Path(birth.folder)
        self._name = birth.module
        self._module: ModuleType | None = None
        self._known: dict[int, Any] = {}
        self._clients: dict[tuple[str, int, float], Any] = {}
        self._connections: dict[str, Any] = {}
        self._arrivals: dict[type, Callable[[Any], Any]] = {
            wire.Ref: lambda ref: self._known[ref.number],
            wire.RedisAt: self._redis,
            wire.BrokerAt: lambda at: self._connections[at.url],
            wire.CallbackAt: self.outgoing.function,
            wire.InterfaceAt: self.outgoing.interface,
            wire.ClockAt: clock_at,
            wire.Named: lambda named: find(named.name, self.solution()),
            wire.Names: lambda several: tuple(find(name, self.solution()) for name in several.names),
        }

    def known(self, number: int) -> Any:
        """The object of that number."""
        return self._known[number] if number else self.solution()

    async def perform(self, request: wire.Request) -> Any:
        if request.name == wire.TASKS:
            return _their_tasks()
        target = self.known(request.target)
        member = getattr(target, request.name)
        if request.read:
            return self._outbound(member)
        for at in _brokers([request.args, *request.kwargs.values()]):
            await self._connect(at)
        arguments = [self._inbound(item) for item in request.args]
        keywords = {name: self._inbound(item) for name, item in request.kwargs.items()}
        result = member(*arguments, **keywords)
        return self._outbound(await result if inspect.isawaitable(result) else result)

    def solution(self) -> ModuleType:
        """The learner's file, loaded on first use, by its place: it may be called like a module of Python's own."""
        if self._module is None:
            file = self.folder / f"{self._name}.py"
            if (size := file.stat().st_size) > _LARGEST_FILE:
                raise ValueError(f"{file.name} has {size:,} bytes; a solution has at most {_LARGEST_FILE:,}")
            spec = importlib.util.spec_from_file_location(self._name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[self._name] = module
            spec.loader.exec_module(module)
            self._module = module
        return self._module

    def _inbound(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._inbound(item) for item in value]
        if isinstance(value, dict):
            return {key: self._inbound(item) for key, item in value.items()}
        make = self._arrivals.get(type(value))
        return make(value) if make else value

    async def _connect(self, at: wire.BrokerAt) -> None:
        import aio_pika

        connection = self._connections.get(at.url)
        if connection is None or connection.is_closed:
            self._connections[at.url] = await aio_pika.connect(at.url)

    def _redis(self, at: wire.RedisAt) -> Any:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        key = (at.host, at.port, at.socket_timeout)
        if key not in self._clients:
            self._clients[key] = Redis(
                host=at.host,
                port=at.port,
                socket_timeout=at.socket_timeout,
                socket_connect_timeout=at.socket_timeout,
                retry=Retry(NoBackoff(), 0),
            )
        return self._clients[key]

    def _outbound(self, value: Any) -> Any:
        try:
            return wire.pack(value)
        except TypeError:  # an object, or one somewhere inside
            pass
        except RecursionError:  # it holds itself, or is nested too deep to travel
            return wire.pack(self._ref(value))
        if type(value) in {list, tuple}:
            return [self._outbound(item) for item in value]
        if type(value) is dict:
            return {wire.key(name): self._outbound(item) for name, item in value.items()}
        return wire.pack(self._ref(value))

    def _ref(self, value: Any) -> wire.Ref:
        number = len(self._known) + 1
        self._known[number] = value
        attributes, unreadable = {}, {}
        for name in _public_names(value):
            try:
                attribute = getattr(value, name)
            except BaseException as error:  # a property of the learner's may raise anything
                unreadable[name] = f"{type(error).__name__}: {_message(error)}".rstrip(": ")
                continue
            if not callable(attribute):
                try:
                    attributes[name] = wire.pack(attribute)
                except (TypeError, RecursionError):  # not plain, or inside itself: `fetch` brings it
                    continue
        return wire.Ref(number, type(value).__name__, attributes, unreadable)


def _brokers(values: list[Any]) -> Iterator[wire.BrokerAt]:
    for value in values:
        if isinstance(value, list):
            yield from _brokers(value)
        elif isinstance(value, wire.BrokerAt):
            yield value


def _public_names(value: Any) -> list[str]:
    of_class = [name for name, member in inspect.getmembers_static(type(value)) if not callable(member)]
    of_object = [name for name in getattr(value, "__dict__", ()) if not name.startswith("_")]
    return sorted({*of_object, *(name for name in of_class if not name.startswith("_") and not name.isupper())})
