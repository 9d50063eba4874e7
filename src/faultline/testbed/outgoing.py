"""Calls out of the learner's process: functions that look like any other there and run in the check."""

import asyncio
import builtins
import importlib
import itertools
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from faultline.testbed import wire

Send = Callable[[wire.ToGrader], None]


class Outgoing:
    """The calls that the learner's code has made and that are not answered yet.

    `outbound` and `inbound` turn values into what travels and back; `send` writes to the grader.
    """

    def __init__(self, send: Send, outbound: Callable[[Any], Any], inbound: Callable[[Any], Any]) -> None:
        self._send = send
        self._outbound = outbound
        self._inbound = inbound
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._interfaces: dict[tuple[int, ...], SimpleNamespace] = {}

    def function(self, at: wire.CallbackAt) -> Callable[..., Any]:
        """The function for that callback: the same one each time it arrives, like any argument that is passed twice."""
        if at.number not in self._functions:
            self._functions[at.number] = self._tell(at) if at.tells else self._ask(at.number, at.name)
        return self._functions[at.number]

    def interface(self, at: wire.InterfaceAt) -> SimpleNamespace:
        """The object with those methods, likewise."""
        key = tuple(at.methods.values())
        if key not in self._interfaces:
            functions = {name: self._ask(number, name) for name, number in at.methods.items()}
            self._interfaces[key] = SimpleNamespace(**functions)
        return self._interfaces[key]

    def returned(self, message: wire.Returned) -> None:
        """The check has answered."""
        if (waiting := self._waiting.get(message.number)) and not waiting.done():
            waiting.set_result(self._inbound(message.value))

    def threw(self, message: wire.Threw, solution: ModuleType) -> None:
        """The check's function has raised: so does the learner's call."""
        if (waiting := self._waiting.get(message.number)) and not waiting.done():
            waiting.set_exception(_exception(message, solution))

    def _ask(self, callback: int, name: str) -> Callable[..., Any]:
        async def ask(*args: Any, **kwargs: Any) -> Any:
            number = self._call(callback, args, kwargs)
            waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                return await waiting
            except asyncio.CancelledError:
                self._send(wire.HungUp(number))
                raise
            finally:
                del self._waiting[number]

        ask.__name__ = ask.__qualname__ = name
        return ask

    def _tell(self, at: wire.CallbackAt) -> Callable[..., Any]:
        def tell(*args: Any, **kwargs: Any) -> None:
            self._call(at.number, args, kwargs)

        tell.__name__ = tell.__qualname__ = at.name
        return tell

    def _call(self, callback: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        number = next(self._numbers)
        keywords = {key: self._outbound(item) for key, item in kwargs.items()}
        self._send(wire.Calling(number, callback, [self._outbound(item) for item in args], keywords))
        return number


def find(name: str, solution: ModuleType) -> Any:
    """What has this name: in the solution, in Python itself, or by its path (`redis.exceptions.ConnectionError`)."""
    place, _, last = name.rpartition(".")
    if place:
        return getattr(importlib.import_module(place), last)
    return getattr(solution, name) if hasattr(solution, name) else getattr(builtins, name)


def _exception(message: wire.Threw, solution: ModuleType) -> Exception:
    try:
        made = find(message.kind, solution)(*message.args, **message.kwargs)
    except Exception as error:  # the learner's class, or none of that name: they shall read which
        return RuntimeError(f"the check raised {message.kind}, which cannot be made here: {error}")
    return made if isinstance(made, Exception) else RuntimeError(f"{message.kind} is no exception here")
