"""Functions of the check that the learner's code calls: counted, held, made to fail, and part of the history.

```
async def load(sku: str) -> dict[str, int]:
    return {"price": 1999}

loading = testbed.callback(load)
cache = await process.new("ProductCache", redis.at(), loading)
...
assert len(loading.calls) == 1
```
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from faultline.testbed import wire
from faultline.testbed.errors import BudgetMissed, TestbedError
from faultline.testbed.phase import Phase

if TYPE_CHECKING:
    from faultline.testbed.edges import PlaceWatcher
    from faultline.testbed.history import Operation
    from faultline.testbed.process import LearnerProcess

Function = Callable[..., Any]


class Throw(Exception):
    """Raised in a callback: the learner's code gets `kind(*args, **kwargs)` of its own, such as its `Declined`.

    Python's own exceptions need no `Throw`: they arrive as themselves.
    """

    def __init__(self, kind: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(kind, *args)
        self.kind = kind
        self.values = args
        self.keywords = kwargs


@dataclass(frozen=True, slots=True, eq=False)
class CallOfIt:
    """One call: who made it, with what, and how it went as an operation of the history."""

    process: "LearnerProcess"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operation: "Operation"


@dataclass(slots=True, eq=False)
class Callback:
    """A function of the check, as an argument for the learner's code; `Testbed.callback` makes one.

    Over there it is an async function (with `tells` a plain one that returns None at once). It may be sync or async
    here. It gets what the learner passed, and what it returns or raises arrives there; cancellation does, too.
    """

    number: int
    name: str
    function: Function
    patience: float = 1.0
    tells: bool = False
    calls: list[CallOfIt] = field(default_factory=list)
    broken: Exception | None = None
    watcher: "PlaceWatcher | None" = None  # of an edge sweep
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Calls go through until `hold`."""
        self._open.set()

    @property
    def at(self) -> wire.CallbackAt:
        """How it travels."""
        return wire.CallbackAt(self.number, self.name, self.tells)

    def hold(self) -> None:
        """From now on calls arrive, are counted, and wait; nothing of the check's function has happened yet."""
        self._open.clear()

    def release(self) -> None:
        """Let those that wait, and all that come, go on."""
        self._open.set()

    async def called(self, count: int = 1, *, within: float = 5.0) -> CallOfIt:
        """Wait until it has been called so many times; returns the call that made it so.

        Raises `BudgetMissed` after `within` seconds.
        """
        began = time.monotonic()
        while len(self.calls) < count:
            self._news.clear()
            left = began + within * self.patience - time.monotonic()
            try:
                await asyncio.wait_for(self._news.wait(), max(0.0, left))
            except TimeoutError:
                took = time.monotonic() - began
                promise = f"`{self.name}` was called {count} times"
                seen = f"`{self.name}` was called {len(self.calls)} times within {took:.1f} s; expected were {count}"
                raise BudgetMissed(seen, promise=promise, took=took) from None
        return self.calls[count - 1]

    async def run(self, call: CallOfIt) -> Any:
        """Answer one call (the process's question)."""
        self.calls.append(call)
        self._news.set()
        await self._open.wait()
        await self._edge(call, Phase.BEFORE)
        answer = self.function(*call.args, **call.kwargs)
        answer = await answer if inspect.isawaitable(answer) else answer
        await self._edge(call, Phase.EXECUTED)
        return answer

    def answered(self, call: CallOfIt) -> None:
        """The answer is on its way (the process's word)."""
        if self.watcher:
            self.watcher.stops(call, Phase.ANSWERED, call.operation.what)

    async def _edge(self, call: CallOfIt, phase: Phase) -> None:
        if not self.watcher:
            return
        if phase is Phase.BEFORE:
            self.watcher.comes(call, self.name)
        if self.watcher.stops(call, phase, call.operation.what):
            await asyncio.Event().wait()  # for ever: whoever asked is dead, and with it this call is cancelled

    def prove(self) -> None:
        """Raise what the check's own function did wrong, if it did."""
        if isinstance(self.broken, AssertionError):
            raise self.broken
        if self.broken is not None:
            raise TestbedError(f"the check's function {self.name} broke: {self.broken!r}") from self.broken


@dataclass(slots=True, eq=False)
class Interface:
    """Several functions of the check as one object for the learner's code: `interface.set_price.calls`."""

    methods: dict[str, Callback]

    def __getattr__(self, name: str) -> Callback:
        try:
            return self.methods[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def at(self) -> wire.InterfaceAt:
        """How it travels."""
        return wire.InterfaceAt({name: callback.number for name, callback in self.methods.items()})
