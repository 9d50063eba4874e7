"""The edge sweep: the learner's process is killed at every edge of what it does, one edge a run, none left out.

```
request ──▶ │ server executes │ ──▶ answer
          before           executed        answered
```

The proxies (and the check's callbacks) announce each request at its three edges. At the first edge that no run has
been killed at, the process is killed (SIGKILL), and nothing that it still says gets through. The sweep ends with a
run that meets no new edge. No edge is a matter of time: an edge is a server, the first word of a request, and the
how-manieth of these in the run it is.

*answered* is the one edge with some play: the answer is on its way into the process when that is killed, so what it
would have done with it in its own memory or files may have begun; nothing more of it reaches a server.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from faultline.components.proxy import Command
from faultline.testbed.callbacks import Callback
from faultline.testbed.errors import ProcessDied, TestbedError
from faultline.testbed.phase import Phase
from faultline.testbed.postgres import ProxiedPostgres
from faultline.testbed.process import LearnerProcess
from faultline.testbed.redis import ProxiedRedis
from faultline.testbed.timeline import brief
from faultline.testbed.upstream import ProxiedUpstream

Place = ProxiedRedis | ProxiedPostgres | ProxiedUpstream | Callback


@dataclass(frozen=True, slots=True)
class EdgeName:
    """What makes an edge the same one in another run."""

    place: str
    verb: str
    number: int
    phase: Phase


@dataclass(slots=True, eq=False)
class Edge:
    """One run of a sweep: it kills the process of `kills` where no run before it has."""

    number: int
    _visited: set[EdgeName]
    _places: tuple[Place, ...]
    target: EdgeName | None = None
    hit: bool = False
    used: bool = False
    said: str = ""
    _victim: LearnerProcess | None = None
    _counted: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __str__(self) -> str:
        if self.hit:
            return f"edge {self.number}: killed {self.said}"
        return f"edge {self.number}: killed nowhere" if self.target is None else f"edge {self.number}: not reached"

    @asynccontextmanager
    async def kills(self, process: LearnerProcess) -> AsyncIterator[None]:
        """What the process asks for in the block has edges; at one of them it dies, and its death ends the block.

        `hit` says whether it did. When the block has ended, all that it had sent is executed or lost for good.
        """
        self.used = True
        self._victim = process
        watchers = [PlaceWatcher(self, place) for place in self._places]
        for watcher in watchers:
            watcher.begin()
        try:
            yield
        except ProcessDied:
            if not self.hit:
                raise
        except BaseExceptionGroup as several:  # of a TaskGroup in the block
            _, others = several.split(ProcessDied)
            if not self.hit or others:
                raise
        finally:
            if self.hit:
                await process.gone()
            for watcher in watchers:
                await watcher.end(severed=self.hit)

    def meet(self, place: str, verb: str, phases: Iterable[Phase]) -> EdgeName | None:
        """A request has come: the edge of it that this run is for, if it is one of these."""
        self._counted[place, verb] += 1
        if self.target is not None:
            return None
        number = self._counted[place, verb]
        edges = (EdgeName(place, verb, number, phase) for phase in phases)
        self.target = next((edge for edge in edges if edge not in self._visited), None)
        if self.target:
            self._visited.add(self.target)
        return self.target

    def strike(self, request: str) -> None:
        """Kill, here and now."""
        assert self.target
        assert self._victim
        request = f"{self.target.verb} no. {self.target.number} on {self.target.place} ({brief(request, 60)})"
        self.hit = True
        self.said = self.target.phase.value.format(request)
        self._victim.strike(self.said)


class PlaceWatcher:
    """Tells an edge of the requests at one place."""

    def __init__(self, edge: Edge, place: Place) -> None:
        self._edge = edge
        self._place = place
        self._name = place.name if isinstance(place, Callback) else place.server.name
        self._command: object = None  # the request that the run's edge belongs to

    def begin(self) -> None:
        """Listen."""
        if isinstance(self._place, Callback):
            self._place.watcher = self
        else:
            self._place.proxy.watch(self)

    async def end(self, *, severed: bool) -> None:
        """Listen no more; of a dead process, drop what did not get through, and wait for the end of what did."""
        if isinstance(self._place, Callback):
            self._place.watcher = None
            return
        if severed:
            await self._place.server.forgotten(await self._place.proxy.sever())
        self._place.proxy.watch(None)

    def comes(self, request: object, verb: str) -> None:
        """A request, before anything else is asked about it."""
        if self._edge.meet(self._name, verb, Phase):
            self._command = request

    def stops(self, request: object, phase: Phase, text: str) -> bool:
        """Whether the request goes no further than this."""
        if self._edge.hit:
            return True
        if request is self._command and self._edge.target and self._edge.target.phase is phase:
            self._edge.strike(text)
            return True
        return False

    def arrived(self, command: Command) -> bool:
        """The proxy's."""
        self.comes(command, command.args[0].decode(errors="replace").upper())
        return self.stops(command, Phase.BEFORE, _text(command))

    def executed(self, command: Command) -> bool:
        """The proxy's."""
        return self.stops(command, Phase.EXECUTED, _text(command))

    def answered(self, command: Command) -> None:
        """The proxy's."""
        self.stops(command, Phase.ANSWERED, _text(command))


def _text(command: Command) -> str:
    return str(command).partition(" ")[2]


async def sweep(places: tuple[Place, ...], at_most: int) -> AsyncIterator[Edge]:
    """One edge after the other, until a whole run has met no new one."""
    if any(not isinstance(place, Callback) and place.proxy.calls_from_elsewhere for place in places):
        raise TestbedError("a way over a lossy network has no edges; use a way to the server without it")
    visited = set[EdgeName]()
    for number in range(1, at_most + 2):
        edge = Edge(number, visited, places)
        yield edge
        if not edge.used:
            raise TestbedError(f"edge {number} was given no process to kill: `async with edge.kills(process)`")
        if edge.target is None:
            return
    raise TestbedError(f"more than {at_most} edges: do less in `kills`, or say how many there may be")
