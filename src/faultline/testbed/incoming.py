"""Calls of a learner's process into the check, from the message that brings one to the message that answers it."""

import asyncio
import builtins
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from faultline.testbed import wire
from faultline.testbed.callbacks import Callback, CallOfIt, Interface, Throw
from faultline.testbed.history import History, Operation, Outcome
from faultline.testbed.timeline import brief

if TYPE_CHECKING:
    from faultline.testbed.process import LearnerProcess


class Incoming:
    """What one process was offered to call, and what it is calling now."""

    def __init__(
        self,
        process: "LearnerProcess",
        history: History,
        send: Callable[[wire.ToLearner], None],
        outbound: Callable[[Any], Any],
    ) -> None:
        self._process = process
        self._history = history
        self._send = send
        self._outbound = outbound
        self._offered: dict[int, Callback] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    def offer(self, what: Callback | Interface) -> wire.CallbackAt | wire.InterfaceAt:
        """From now on the process may call this; how it travels."""
        for callback in what.methods.values() if isinstance(what, Interface) else (what,):
            self._offered[callback.number] = callback
        return what.at

    def calling(self, message: wire.Calling, operation: Operation, args: list[Any], kwargs: dict[str, Any]) -> None:
        """The learner's code calls; `operation` is this call in the history."""
        callback = self._offered[message.callback]
        shown = [brief(arg, 24) for arg in args] + [f"{key}={brief(arg, 24)}" for key, arg in kwargs.items()]
        operation.what = f"{callback.name}({', '.join(shown)})"
        call = CallOfIt(self._process, tuple(args), kwargs, operation)
        task = asyncio.create_task(self._answer(message.number, callback, call), name=operation.what)
        self._running[message.number] = task
        task.add_done_callback(lambda _: self._running.pop(message.number, None))

    def hung_up(self, message: wire.HungUp) -> None:
        """Whoever waited over there was cancelled, and so is what runs here."""
        if task := self._running.get(message.number):
            task.cancel()

    def end(self) -> None:
        """The process is gone, and with it whoever waited."""
        for task in list(self._running.values()):
            task.cancel()

    async def _answer(self, number: int, callback: Callback, call: CallOfIt) -> None:
        try:
            value = await callback.run(call)
            answer: wire.Returned | wire.Threw = wire.Returned(number, self._outbound(value))
        except asyncio.CancelledError:
            self._history.complete(call.operation, Outcome.UNKNOWN, "nobody waits any more")
            raise
        except Exception as error:  # the check's: what it means is said in `_thrown`
            answer = self._thrown(number, callback, error)
            self._history.complete(call.operation, Outcome.FAILED, f"{answer.kind} {error}".rstrip())
        else:
            self._history.complete(call.operation, Outcome.OK, value)
        if not callback.tells:
            self._send(answer)
            callback.answered(call)

    def _thrown(self, number: int, callback: Callback, error: Exception) -> wire.Threw:
        if isinstance(error, Throw):
            args = [self._outbound(value) for value in error.values]
            return wire.Threw(number, error.kind, args, {key: self._outbound(v) for key, v in error.keywords.items()})
        kind = type(error)
        if getattr(builtins, kind.__name__, None) is not kind or isinstance(error, AssertionError):
            callback.broken = callback.broken or error
            return wire.Threw(number, "RuntimeError", [f"the check's function broke: {error!r}"], {})
        try:
            return wire.Threw(number, kind.__name__, [self._outbound(value) for value in error.args], {})
        except TypeError:  # something in it cannot travel
            return wire.Threw(number, kind.__name__, [str(error)], {})
