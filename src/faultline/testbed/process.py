"""A process of the learner's code, and the objects in it, as a check sees them.

One piece, though long: what it is asked, what it answers, and how it ends are one state. An answer that will not come
any more is told by its end.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from faultline.testbed import wire
from faultline.testbed.call import Call
from faultline.testbed.callbacks import Callback, Interface
from faultline.testbed.errors import Broken, BudgetMissed, ProcessDied, Raised, TestbedError
from faultline.testbed.history import History, Operation, Outcome
from faultline.testbed.incoming import Incoming
from faultline.testbed.injected_clock import InjectedClock
from faultline.testbed.learner import WHERE, Birth
from faultline.testbed.method import Method
from faultline.testbed.nursery import Nursery
from faultline.testbed.tail import Tail
from faultline.testbed.timeline import brief

_VERIFY_WITHIN = 5.0  # seconds for the kernel to do what a signal asks
_STOPPED = {"T", "t"}
_ENDED = {"Z", "X"}
_EXITING = 0x4  # a flag of the kernel's: it closes its files, and is no zombie yet
_GONE_WITHIN = 1.0  # seconds from a connection's end to the word that its process has ended
_PLACE_WITHIN = 0.5  # seconds for a process to write where it is
_OUTERMOST = re.compile(r"(in <module>|in _run_module_as_main|\.\.\.)\n\Z")  # how that ends; it comes line by line


class Remote:
    """An object in the learner's process.

    Its plain public attributes are as they were when the object arrived (`lease.token`); anything else is a
    method that runs over there (`await lease.release()`). `await lease.fetch("valid_for")` reads anew.
    """

    def __init__(self, process: "LearnerProcess", ref: wire.Ref, operation: Operation) -> None:
        self._process = process
        self._ref = ref
        self.operation = operation  # the call that brought it

    @property
    def process(self) -> "LearnerProcess":
        """Where it lives."""
        return self._process

    def __getattr__(self, name: str) -> Any:
        if name in self._ref.attributes:
            return self._ref.attributes[name]
        if name in self._ref.unreadable:
            raise AssertionError(f"reading {self._ref.kind}.{name} raised {self._ref.unreadable[name]}")
        if name.startswith("_") and not name.startswith("__a"):
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._process.request(self._ref, name, args, kwargs)

        return Method(self._ref.kind, name, call)

    async def fetch(self, attribute: str) -> Any:
        """The attribute's value now."""
        return await self._process.request(self._ref, attribute, (), {}, read=True)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={value:.3f}" if isinstance(value, float) else f"{name}={value!r}"
            for name, value in self._ref.attributes.items()
            if isinstance(value, bool | int | float | str)
        )
        return f"{self._ref.kind}({shown})"

    @property
    def ref(self) -> wire.Ref:
        """How it travels as an argument."""
        return self._ref


class LearnerProcess:
    """One process of the learner's code: made by `Testbed.process`, ended with the check at the latest."""

    def __init__(self, name: str, history: History, output: Path, patience: float) -> None:
        self.name = name
        self._patience = patience
        self.pid = 0
        self.output = output
        self.exit_code: int | None = None
        self._printed = Tail(output)
        self._places = Tail(output.with_suffix(".places"))
        self._folder = ""
        self._history = history
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._waiting: dict[int, tuple[asyncio.Future[Any], Operation]] = {}
        self._cancelling: dict[int, asyncio.Future[bool]] = {}
        self._incoming = Incoming(self, history, self._send, self._outbound)
        self._excess = ""  # why the nursery has ended it
        self._gone = asyncio.Event()
        self._lost = ""  # why it cannot answer any more although it lives
        self._killed = False
        self._count = 0

    async def begin(self, nursery: Nursery, birth: Birth) -> None:
        """Have the process forked and start listening to it."""
        self._folder = birth.folder
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.pid = await nursery.birth(birth, theirs, self._exited)
        except BaseException:  # also when cancelled
            ours.close()
            raise
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen(reader), name=f"listen to {self.name}")

    async def new(self, kind: str, *args: Any, **kwargs: Any) -> Remote:
        """Make an object of the solution's class `kind` (or call its function `kind`) over there."""
        made = await self.request(None, kind, args, kwargs)
        if isinstance(made, Remote):
            return made
        raise Broken(f"{kind}(…) gave {brief(made)}, not an object")

    async def get(self, name: str) -> Remote:
        """The object that has this name in the solution."""
        found = await self.request(None, name, (), {}, read=True)
        if isinstance(found, Remote):
            return found
        raise Broken(f"{name} is {brief(found)}, not an object")

    async def request(
        self, target: wire.Ref | None, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, read: bool = False
    ) -> Any:
        """Perform one operation over there, recorded in the history; raises `Raised` or `ProcessDied`."""
        return await self._answer_to(*self._ask(target, name, args, kwargs, read=read))

    def call(self, target: Remote | None, name: str, *args: Any, **kwargs: Any) -> Call:
        """Begin `target.name(…)` (of the solution itself for None) as a call that the check can cancel."""
        number, operation = self._ask(target.ref if target else None, name, args, kwargs)
        return Call(operation, self._answer_to(number, operation), lambda: self._cancel(number))

    async def serve(self, app: Remote, host: str, port: int) -> None:
        """Have it serve that ASGI app of its own there; returns when it accepts. Raises `Raised` or `ProcessDied`."""
        self._require_life("was to serve")
        self._count += 1
        await self._answer_to(*self._send_off(wire.Serve(self._count, app.ref.number, host, port), f"serve on {port}"))

    async def tasks(self) -> list[str]:
        """The asyncio tasks that the learner's code has running there, as "Task-7 in Cache.listen"; no call of ours."""
        found: list[str] = await self.request(None, wire.TASKS, (), {}, read=True)
        return found

    def _ask(
        self, target: wire.Ref | None, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, read: bool = False
    ) -> tuple[int, Operation]:
        self._require_life(f"was asked for {name}")
        self._count += 1
        message = wire.Request(
            self._count,
            target.number if target else 0,
            name,
            [self._outbound(item) for item in args],
            {key: self._outbound(item) for key, item in kwargs.items()},
            read,
        )
        return self._send_off(message, name if read else f"{name}({_arguments(args, kwargs)})")

    def _send_off(self, message: wire.Request | wire.Serve, what: str) -> tuple[int, Operation]:
        framed = wire.frame(message)
        operation = self._history.invoke(self.name, what)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[message.number] = answer, operation
        assert self._writer is not None
        self._writer.write(framed)
        return message.number, operation

    async def _answer_to(self, number: int, operation: Operation) -> Any:
        try:
            value = self._inbound(await self._waiting[number][0], operation)
        except Raised as error:
            self._history.complete(operation, Outcome.FAILED, f"{error.kind} {error.message}".rstrip())
            raise
        except ProcessDied:
            self._history.complete(operation, Outcome.UNKNOWN, "process gone")
            raise
        finally:
            self._waiting.pop(number, None)
        self._history.complete(operation, Outcome.OK, value)
        return value

    async def _cancel(self, number: int) -> bool:
        """Cancel that request's task over there; whether it was still running."""
        self._require_life("was to cancel a call")
        seen: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._cancelling[number] = seen
        try:
            self._send(wire.Cancel(number))
            return await seen
        finally:
            del self._cancelling[number]

    def _send(self, message: wire.ToLearner) -> None:
        assert self._writer is not None
        self._writer.write(wire.frame(message))

    def _outbound(self, value: Any) -> Any:
        match value:
            case Remote():
                return wire.pack(value.ref)
            case Callback() | Interface():
                return wire.pack(self._incoming.offer(value))
            case InjectedClock():
                return wire.pack(value.at)
            case tuple() if value and all(isinstance(item, wire.Named) for item in value):
                return wire.pack(wire.Names([item.name for item in value]))
            case list() | tuple():
                return [self._outbound(item) for item in value]
            case _:
                return wire.pack(value)

    def _inbound(self, value: Any, operation: Operation) -> Any:
        if isinstance(value, wire.Ref):
            return Remote(self, value, operation)
        if isinstance(value, list):
            return [self._inbound(item, operation) for item in value]
        if isinstance(value, dict):
            return {key: self._inbound(item, operation) for key, item in value.items()}
        return value

    async def pause(self) -> None:
        """Stop it and what it started where they are (SIGSTOP); returns when the kernel says it has stopped."""
        self._require_life("was to be paused")
        self._signal(signal.SIGSTOP)
        await self._until(lambda: self._state() in _STOPPED, "stop at SIGSTOP")
        self._history.note(self.name, "paused (SIGSTOP)")

    async def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._history.note(self.name, "resumed (SIGCONT)")
        self._signal(signal.SIGCONT)
        await self._until(lambda: self._state() not in _STOPPED, "go on at SIGCONT")

    async def terminate(self) -> None:
        """Ask it to end, as its operator would (SIGTERM to it alone); `ended` waits until it has."""
        self._require_life("was to be asked to end")
        self._history.note(self.name, "asked to end (SIGTERM)")
        os.kill(self.pid, signal.SIGTERM)

    async def ended(self, *, within: float) -> int:
        """Its exit code (negative: a signal), once it has ended by itself; `BudgetMissed` after so many seconds."""
        began = self._history.now()
        try:
            await asyncio.wait_for(self._gone.wait(), within * self._patience)
        except TimeoutError:
            took = self._history.now() - began
            promise = f"{self.name} had ended"
            raise BudgetMissed(f"{self.name} still runs after {took:.1f} s", promise=promise, took=took) from None
        assert self.exit_code is not None
        return self.exit_code

    async def kill(self) -> None:
        """End the process at once (kill -9); returns when it is gone."""
        self._require_life("was to be killed")
        self.strike("(SIGKILL)")
        await self.gone()

    def strike(self, why: str) -> None:
        """Kill it without waiting (kill -9), from within an event; `gone` waits."""
        self._killed = True
        self._history.note(self.name, f"killed {why}")
        self._signal(signal.SIGKILL)

    async def gone(self) -> None:
        """Return when it has ended after `strike`."""
        await self._until(lambda: self.exit_code is not None, "die at SIGKILL")

    async def require_life(self, when: str) -> None:
        """Raise `ProcessDied` if it has ended, or is ending; `when` completes "… ended when it …"."""
        if self._is_ending():
            await self._until(lambda: self.exit_code is not None, "end")
        self._require_life(when)

    async def end(self) -> None:
        """Let it go, at the end of a check: hang up and kill it, with all in its process group."""
        self._killed = True
        if self._writer is not None:
            self._writer.close()
        if self.pid and self.exit_code is None:
            self._signal(signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), _VERIFY_WITHIN)
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    def close(self) -> None:
        """Let go of what it printed."""
        self._printed.close()
        self._places.close()

    def printed(self) -> str:
        """The end of what it printed; "" after `close`."""
        return self._printed.text()

    async def place(self) -> str:
        """The line of the learner's files that it is in right now; "" if it is elsewhere, stands still or has ended."""
        if self.exit_code is not None:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, WHERE)
        with contextlib.suppress(TestbedError):  # it stands still
            await self._until(lambda: _OUTERMOST.search(self._places.text()), "say where it is", within=_PLACE_WITHIN)
        found = re.search(rf'File "{re.escape(self._folder)}/(.+)", line (\d+) in ', self._places.text())
        return f"{found[1]}:{found[2]}" if found else ""

    def _signal(self, number: signal.Signals) -> None:
        if self.pid and self.exit_code is None:  # group 0 would be our own; a number that was reaped is anybody's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _state(self) -> str:
        return self._stat()[0]

    def _is_ending(self) -> bool:
        state, *others = self._stat()
        return state in _ENDED or bool(int(others[5]) & _EXITING)

    def _stat(self) -> list[str]:
        """What the kernel tells of it, from its state on."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ["X"]

    async def _until(self, condition: Callable[[], object], what: str, *, within: float | None = None) -> None:
        within = _VERIFY_WITHIN if within is None else within
        deadline = self._history.now() + within
        while not condition():
            if self._history.now() > deadline:
                raise TestbedError(f"{self.name} (pid {self.pid}) did not {what} within {within:g} s")
            await asyncio.sleep(0.001)

    def _exited(self, code: int | None, why: str) -> None:
        """The nursery's word; None: it has died itself, and takes all its processes with it."""
        self.exit_code = -signal.SIGKILL if code is None else code
        self._excess = why
        self._gone.set()
        self._incoming.end()
        died = f"the nursery died, and {self.name} with it; memory may have run out, or somebody has killed it"
        self._fail_waiting(lambda doing: TestbedError(died) if code is None else self._death(f"was in {doing}"))

    def _fail_waiting(self, error: Callable[[str], Exception]) -> None:
        for answer, operation in self._waiting.values():
            if not answer.done():
                answer.set_exception(error(operation.what))
        for seen in self._cancelling.values():
            if not seen.done():
                seen.set_exception(error("a call that was to be cancelled"))

    def _require_life(self, when: str) -> None:
        if self.exit_code is not None:
            raise self._death(when)
        if self._lost:
            raise ProcessDied(f"{self.name} {self._lost} before it {when}")

    def _death(self, when: str) -> ProcessDied:
        if self._killed:
            return ProcessDied(f"{self.name} was killed by the check {_before(when)}")
        if self._excess:
            return ProcessDied(f"the process of your code, {self.name}, was ended when it {when}: {self._excess}")
        last = self.printed().strip().splitlines()[-3:]
        said = f"; it last printed: {' / '.join(last)}" if last else ""
        how = _how_it_ended(self.exit_code or 0)
        return ProcessDied(f"the process of your code, {self.name}, ended {how} when it {when}{said}")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        why = "closed its connection to the grader"
        try:
            while True:
                self._deliver(await wire.read_from_learner(reader))
        except asyncio.IncompleteReadError:
            pass
        except (OSError, ValueError, TypeError, KeyError, RecursionError, msgspec.MsgspecError) as error:
            why = f"broke its connection to the grader ({error})"  # whatever bytes may do to a decoder
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), _GONE_WITHIN)
            return  # the nursery has told how it ended
        if self._state() in _ENDED:  # the nursery is still busy with what it has left
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), _VERIFY_WITHIN)
                return
        self._lost = why
        self._fail_waiting(lambda doing: ProcessDied(f"{self.name} {why} in {doing}, and lives on"))

    def _deliver(self, message: wire.ToGrader) -> None:
        match message:
            case wire.Reply(number, value):
                self._settle(number, value)
            case wire.Failure(number, kind, bases, text, where):
                self._settle(number, Raised(kind=kind, bases=bases, message=text, where=where))
            case wire.CancelSeen(number, running):
                if (seen := self._cancelling.get(number)) and not seen.done():
                    seen.set_result(running)
            case wire.Calling():
                self._called(message)
            case wire.HungUp():
                self._incoming.hung_up(message)

    def _settle(self, number: int, answer: Any) -> None:
        waiting, _ = self._waiting.get(number, (None, None))
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Raised):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _called(self, message: wire.Calling) -> None:
        operation = self._history.invoke(self.name, "…")
        args = self._inbound(message.args, operation)
        self._incoming.calling(message, operation, args, self._inbound(message.kwargs, operation))


def _before(when: str) -> str:
    return f"while it {when}" if when.startswith("was in ") else f"before it {when}"


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"itself with exit code {code}, as os._exit({code}) does,"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:  # a realtime signal
        return f"by signal {-code}"


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    shown = [_argument(item) for item in args] + [f"{key}={_argument(item)}" for key, item in kwargs.items()]
    return ", ".join(shown)


def _argument(value: Any) -> str:
    if isinstance(value, wire.RedisAt):
        return f"redis:{value.port}"
    if isinstance(value, wire.BrokerAt):
        return f"rabbitmq:{value.url.rpartition(':')[2]}"
    if isinstance(value, Callback | InjectedClock):
        return value.name
    if isinstance(value, list | tuple):
        return f"[{', '.join(_argument(item) for item in value)}]"
    if isinstance(value, str) and value.startswith("postgresql://"):
        return f"postgres:{urlsplit(value).port}"
    return f"{value:g}" if isinstance(value, float) else brief(value, 24)
