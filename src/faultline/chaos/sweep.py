"""The edge sweep: one purchase after the other, and in each a service is killed at an edge where none was before.

```
client ──▶ │ server acts │ ──▶ answer
         before          after
```

An edge is a request that a service sends, to PostgreSQL, to the broker, to another service: the proxies tell of each.
`before`, it never arrives; `after`, the server has acted and the service will not learn it. (An acknowledgement has no
answer: `after` it is on its way.) At the first edge that no run has been killed at, the process that sends is killed
with SIGKILL, and nothing that it still says gets through. The fork-server starts it again, its fellow goes on
meanwhile, the buyer asks again with its key. When the order has come to its end and the shop is quiet, every invariant
is checked. The sweep ends with a run that meets no new edge.

No edge is a matter of time: it is a service, a server, what is asked, and the how-manieth of these in the run. Of what
is asked over and over until an answer comes the first `REPEATS` count. What a shop does that nobody uses is no edge of
a checkout: it is seen before the first run, and left out.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from signal import SIGKILL
from time import monotonic
from typing import TYPE_CHECKING, Literal

import msgspec

from faultline.chaos import checker
from faultline.chaos.errors import NotQuiet, NotReached
from faultline.chaos.owners import calls_of, owner_of
from faultline.chaos.wire import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from faultline.chaos.books import Books
    from faultline.chaos.buyers import Bought
    from faultline.chaos.rig import Place, Rig
    from faultline.components.proxy import Command

    Checkout = Callable[[str], Awaitable[Bought]]
    """Buys with this key."""

REPEATS = 2
IDLE = 2.0  # seconds of watching a shop that nobody uses
WITHIN = 30.0  # seconds for a checkout with a death in it, and for the shop to be quiet again


class Side(StrEnum):
    """Of the request."""

    BEFORE = "before"
    AFTER = "after"


class Edge(msgspec.Struct, frozen=True):
    """What makes an edge the same one in another run."""

    service: str
    place: str
    what: str
    number: int
    side: Side

    def __str__(self) -> str:
        times = f" ({self.number})" if self.number > 1 else ""
        return f"{self.service} killed {self.side} {self.what}{times} at {self.place}"


class Run(msgspec.Struct, frozen=True):
    """What came of one checkout with one death."""

    edge: Edge
    state: Literal["held", "violated", "unfinished", "missed"]
    """`unfinished`: the order came to no end in time; `missed`: the request had no answer to be killed after."""
    order: str
    status: str
    seconds: float
    evidence: list[str]


@dataclass(slots=True)
class _Strike:
    """One run: it kills at the first edge that is not in `visited`."""

    visited: set[Edge]
    idle: frozenset[tuple[str, str, str]]
    target: Edge | None = None
    hit: bool = False
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    counted: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def meet(self, name: tuple[str, str, str]) -> Edge | None:
        """A service asks for something: the edge of it that this run is for, if it is one."""
        if name in self.idle:
            return None
        self.counted[name] += 1
        if self.target is not None or self.counted[name] > REPEATS:
            return None
        edges = (Edge(*name, self.counted[name], side) for side in Side)
        self.target = next((edge for edge in edges if edge not in self.visited), None)
        return self.target


class _Watcher:
    """Tells a run of the requests at one place; the proxy asks it."""

    def __init__(self, place: Place, rig: Rig, seen: Callable[[tuple[str, str, str]], object]) -> None:
        self.place = place
        self.dead: set[int] = set()
        self._rig = rig
        self._seen = seen
        self._reader = Reader()
        self._owners: dict[int, tuple[str, int] | None] = {}
        self._command: Command | None = None
        self._strike: _Strike | None = None
        self._kill: Callable[[int], None] = lambda _: None

    def arm(self, strike: _Strike | None, kill: Callable[[int], None] = lambda _: None) -> None:
        """From now on for this run."""
        self._strike, self._kill, self._command = strike, kill, None

    def arrived(self, command: Command) -> bool:
        """The proxy's."""
        if command.connection in self.dead:
            return True
        what = self._reader.edge(command)
        owner = self._owner(command.connection) if what else None
        if what is None or owner is None:
            return False
        name = (owner[0], self.place.name, what)
        self._seen(name)
        edge = self._strike.meet(name) if self._strike else None
        if edge is None:
            return False
        self._command = command
        if edge.side is Side.BEFORE:
            self._kill(owner[1])
            return True
        return False

    def executed(self, command: Command) -> bool:
        """The proxy's."""
        return command.connection in self.dead or self._after(command)

    def answered(self, command: Command) -> None:
        """The proxy's; of a request without an answer, that it is through."""
        self._after(command)

    def calls(self) -> dict[int, tuple[int, int]]:
        """From which port to which each open connection here leads, by its number."""
        return {number: (port, self.place.proxy.port) for number, port in self.place.proxy.client_ports().items()}

    def _after(self, command: Command) -> bool:
        if command is not self._command or self._strike is None or self._strike.hit:
            return False
        owner = self._owner(command.connection)
        if owner:
            self._kill(owner[1])
        return owner is not None

    def _owner(self, connection: int) -> tuple[str, int] | None:
        """The service whose connection it is, and its process."""
        if self._owners.get(connection) is None:
            call = self.calls().get(connection)
            pids = {one.pid: one.name.rpartition("-")[0] for one in self._rig.processes() if one.pid}
            pid = owner_of(call, pids) if call else None
            self._owners[connection] = (pids[pid], pid) if pid else None
        return self._owners[connection]


class Sweep:
    """All runs over one shop. What was done is kept in `journal`, and is done again only if it came to no end."""

    def __init__(self, rig: Rig, books: Books, journal: Path) -> None:
        self._rig = rig
        self._books = books
        self._journal = journal
        self._watchers = [_Watcher(place, rig, self._saw) for place in rig.places]
        self._idle: set[tuple[str, str, str]] = set()
        self._watching = False

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """The proxies tell this sweep of all that passes while the block runs; first, of what does when nobody buys."""
        await checker.quiet(self._books, within=WITHIN)
        for watcher in self._watchers:
            watcher.place.proxy.watch(watcher)
        try:
            self._watching = True
            await asyncio.sleep(IDLE)
            self._watching = False
            yield
        finally:
            for watcher in self._watchers:
                watcher.place.proxy.watch(None)

    async def runs(self, checkout: Checkout, *, at_most: int) -> AsyncIterator[Run]:
        """One edge after the other, until a run has met no new one, or there were so many in all."""
        visited = {run.edge for run in read(self._journal) if run.state != "unfinished"}
        for number in count(1):
            if len(visited) >= at_most:
                return
            run = await self._run(checkout, visited, f"sweep-{os.getpid()}-{monotonic():.0f}-{number}")
            if run is None:
                return
            visited.add(run.edge)
            with self._journal.open("ab") as file:
                file.write(msgspec.json.encode(run) + b"\n")
            yield run

    async def _run(self, checkout: Checkout, visited: set[Edge], key: str) -> Run | None:
        """A checkout with a death in it; None if nobody had to die, since every edge of it is known."""
        strike = _Strike(visited, frozenset(self._idle))
        began = monotonic()
        bought: Bought | None = None
        evidence: list[str] = []
        async with asyncio.TaskGroup() as group:
            undertaker = group.create_task(self._bury(strike))
            for watcher in self._watchers:
                watcher.arm(strike, lambda pid: self._kill(strike, pid))
            try:
                bought = await checkout(key)
                await checker.quiet(self._books, within=WITHIN)
            except (NotReached, NotQuiet) as error:
                evidence.append(str(error))
            for watcher in self._watchers:
                watcher.arm(None)
            undertaker.cancel()
        await self._rig.ready()
        if strike.target is None:
            if evidence:
                raise NotReached(f"a checkout that nobody disturbed: {'; '.join(evidence)}")
            return None
        verdicts = await checker.check(self._books)
        evidence += [f"{one.invariant.number}: {told}" for one in verdicts for told in one.violated]
        return Run(
            edge=strike.target,
            state=_state(strike, bought, evidence),
            order=bought.order if bought else "",
            status=bought.status if bought else "",
            seconds=round(monotonic() - began, 2),
            evidence=evidence,
        )

    def _kill(self, strike: _Strike, pid: int) -> None:
        """Now, in the middle of what the proxy does; nothing more of it gets through."""
        mine = calls_of(pid)
        for watcher in self._watchers:
            watcher.dead |= {connection for connection, call in watcher.calls().items() if call in mine}
        strike.hit = True
        with suppress(ProcessLookupError):
            os.kill(pid, SIGKILL)
        strike.struck.set()

    async def _bury(self, strike: _Strike) -> None:
        """Hang up for who was killed: with what is held here, its end would not reach the servers."""
        await strike.struck.wait()
        for watcher in self._watchers:
            await watcher.place.proxy.hang_up(watcher.dead)

    def _saw(self, name: tuple[str, str, str]) -> None:
        if self._watching:
            self._idle.add(name)


def _state(
    strike: _Strike, bought: Bought | None, evidence: list[str]
) -> Literal["held", "violated", "unfinished", "missed"]:
    if bought is None:
        return "unfinished"
    if evidence:
        return "violated"
    return "held" if strike.hit else "missed"


def read(journal: Path) -> list[Run]:
    """What was done until now; of an edge that was tried again, the last run."""
    return list({run.edge: run for run in _lines(journal)}.values())


def _lines(journal: Path) -> Iterator[Run]:
    if journal.exists():
        for line in journal.read_bytes().splitlines():
            yield msgspec.json.decode(line, type=Run)
