"""The testbed of one check: real servers, processes of the learner's code, faults, and the record of it all.

Everything that a check gets here is private to it and ends with it. A check that passes must have been able to
fail: each fault proves that it hit, otherwise the verdict is `error` (`Vacuous`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.components import Clone, Supervisor
from faultline.components.faults import Direction, Fault
from faultline.components.proxy import FaultProxy, Injected
from faultline.testbed.errors import Broken, BudgetMissed, Raised, TestbedError, Vacuous
from faultline.testbed.history import History
from faultline.testbed.learner import Birth
from faultline.testbed.nursery import Nursery
from faultline.testbed.process import LearnerProcess
from faultline.testbed.redis import ProxiedRedis, RedisServer
from faultline.testbed.speed import Lateness, measured_lateness

WAKINGS = 3  # of one process after the other that one answer may need


@dataclass(frozen=True, slots=True)
class Solution:
    """The files under test: `folder` holds them, `module` is the one to load, without `.py`.

    `hidden` are files and folders that its processes have no business in.
    """

    folder: Path
    module: str
    hidden: tuple[str, ...] = ()


class Stoppable(Protocol):
    """A server or a process that can be paused and killed."""

    async def pause(self) -> None:
        """Stop it where it is."""

    async def resume(self) -> None:
        """Let it go on."""

    async def kill(self) -> None:
        """End it at once."""


@dataclass(slots=True)
class _Expected:
    fault: str
    hits: Callable[[], int]
    passed: Callable[[], int]  # requests that it could have hit


@dataclass(slots=True)
class Testbed:
    """What a check stands on; `Testbed.opened` makes one and ends it."""

    __test__ = False  # pytest collects what is called Test*

    solution_files: Solution
    folder: Path
    seed: int
    nursery: Nursery
    supervisor: Supervisor
    lateness: Lateness
    patience: float = 1.0  # factor on budgets, above 1 on the second try
    history: History = field(default_factory=History)
    random: Random = field(init=False)
    printed: str = ""  # the end of what each process has printed, once all have ended
    late: dict[str, float] = field(default_factory=dict)  # seconds over budget that patience has let pass, by promise
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _faults: list[_Expected] = field(default_factory=list)
    _processes: list[LearnerProcess] = field(default_factory=list)
    _servers: int = 0

    def __post_init__(self) -> None:
        """Every random choice of the check comes from its seed."""
        self.random = Random(self.seed)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, *, solution: Solution, folder: Path, seed: int, nursery: Nursery, clone: Clone, patience: float = 1.0
    ) -> "AsyncIterator[Testbed]":
        """A testbed that keeps its files in `folder` and ends all it started when the block ends."""
        nursery.attach()
        try:
            async with Supervisor(folder, clone) as supervisor, measured_lateness() as lateness:
                testbed = cls(solution, folder, seed, nursery, supervisor, lateness, patience)
                async with testbed._stack:
                    try:
                        yield testbed
                    finally:
                        await asyncio.gather(*(process.end() for process in testbed._processes))
                        said = {process.output: process.printed() for process in testbed._processes}
                        testbed.printed = "".join(said.values())
                        for process in testbed._processes:
                            process.close()
        finally:
            nursery.detach()

    # -- servers -------------------------------------------------------------------------------------------------

    async def redis(self, *, durable: bool = False) -> RedisServer:
        """A Redis of its own; `durable`: with an append-only file that is synced on every write."""
        self._servers += 1
        name = f"redis-{self._servers}"
        settings = {"append_only": durable, "fsync": "always"}
        instance = await self.supervisor.start("redis", name=name, settings=settings)
        truth = Redis(host=instance.host, port=instance.port, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)
        self._stack.push_async_callback(truth.aclose)
        return RedisServer(instance, truth, self.history)

    async def redises(self, count: int, *, durable: bool = False) -> list[RedisServer]:
        """So many independent servers."""
        return list(await asyncio.gather(*(self.redis(durable=durable) for _ in range(count))))

    async def proxy(self, server: RedisServer) -> ProxiedRedis:
        """A way to the server on which faults can be put, and requests counted and held."""
        proxy = FaultProxy(server.instance.host, server.instance.port, seed=self.seed, protocol="redis")
        await self._stack.enter_async_context(proxy)
        return ProxiedRedis(proxy, server)

    # -- the learner's code --------------------------------------------------------------------------------------

    async def process(self, name: str, *, clock_offset: float = 0.0) -> LearnerProcess:
        """A process with the solution loaded on first use; its wall clock is off by `clock_offset` seconds."""
        scratch = self.folder / f"{name}.files"
        scratch.mkdir(exist_ok=True)  # two may have one name
        process = LearnerProcess(name, self.history, self.folder / f"{name}.out")
        birth = Birth(
            name=name,
            folder=str(self.solution_files.folder),
            module=self.solution_files.module,
            scratch=str(scratch),
            output=str(process.output),
            places=str(process.output.with_suffix(".places")),
            hidden=self.solution_files.hidden,
            clock_offset=clock_offset,
        )
        self._processes.append(process)  # from now on it is ended, also if it is only half begun
        await process.begin(self.nursery, birth)
        return process

    async def processes(self, count: int, name: str) -> list[LearnerProcess]:
        """So many processes, called `name`-1 and so on."""
        return list(await asyncio.gather(*(self.process(f"{name}-{number}") for number in range(1, count + 1))))

    async def places(self) -> dict[str, str]:
        """Where in the learner's files each process is right now, by its name."""
        found = await asyncio.gather(*(process.place() for process in self._processes))
        return {process.name: place for process, place in zip(self._processes, found, strict=True) if place}

    @contextmanager
    def raises(self, kind: str) -> Iterator[None]:
        """The block must end with the solution's exception `kind`, or one derived from it."""
        try:
            yield
        except Raised as error:
            if kind not in error.bases:
                raise Broken(f"promised was {kind}, raised was {error}") from error
        else:
            raise Broken(f"promised was {kind}, but nothing was raised")

    # -- faults and time -----------------------------------------------------------------------------------------

    def inject(self, way: ProxiedRedis, fault: Fault, direction: Direction | None = None) -> Injected:
        """Let a network fault strike on that way; a pass counts only if it did."""
        injected = way.proxy.add(fault, direction)
        self.history.note("network", f"{fault} before {way.server.name}")
        before = way.requests
        self.must_hit(str(fault), lambda: injected.hits, passed=lambda: way.requests - before)
        return injected

    def must_hit(self, name: str, hits: Callable[[], int], *, passed: Callable[[], int] = lambda: 0) -> None:
        """A pass counts only if `hits()` is positive at the end of the check; `passed()` is what it could have hit."""
        self._faults.append(_Expected(name, hits, passed))

    def prove_faults(self) -> None:
        """Raise `Vacuous` for a fault that did not hit."""
        for expected in self._faults:
            if expected.hits() < 1:
                raise Vacuous(f"the fault '{expected.fault}' never hit, so this check has proved nothing")

    def prove_faults_met(self) -> None:
        """Raise `Vacuous` for a fault that let requests pass and hit none: then a failure proves nothing either."""
        for expected in self._faults:
            if expected.hits() < 1 and (passed := expected.passed()):
                raise Vacuous(f"the fault '{expected.fault}' hit none of {passed} requests, so nothing is known")

    @asynccontextmanager
    async def paused(self, target: Stoppable) -> AsyncIterator[None]:
        """`target` stands still during the block."""
        await target.pause()
        try:
            yield
        finally:
            await target.resume()

    @contextmanager
    def within(self, budget: float, promise: str) -> Iterator[None]:
        """The block ends within `budget` seconds; if not, the check is tried once more with more patience.

        Some time that this machine was late by does not count: three times the worst waking of this process
        meanwhile, for a message wakes one process after the other. `promise` completes the sentence "It took 1.2 s
        until …".
        """
        start = time.monotonic()
        yield
        took = time.monotonic() - start - WAKINGS * self.lateness.worst_since(start)
        if took > budget * self.patience:
            seen = f"it took {took:.2f} s until {promise}; promised were {budget:g} s"
            raise BudgetMissed(seen, promise=promise, took=took)
        if took > budget:
            self.late[promise] = took

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, *, deadline: float = 5.0) -> Any:
        """The first true answer of `condition`; `TestbedError` after `deadline` seconds."""
        end = time.monotonic() + deadline * self.patience
        while not (answer := await condition()):
            if time.monotonic() > end:
                raise TestbedError(f"waited {deadline:g} s in vain until {what}")
            await asyncio.sleep(0.002)
        return answer
