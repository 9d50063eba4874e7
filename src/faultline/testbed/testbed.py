"""The testbed of one check: real servers, processes of the learner's code, faults, and the record of it all.

Everything that a check gets here is private to it and ends with it. A check that passes must have been able to
fail: each fault proves that it hit, otherwise the verdict is `error` (`Vacuous`).

One piece, though long: it is the one object that a check gets. Each word is made in a file of its own; here it is
given its folder, its number, its end with the check, and its proof.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol, overload

import psycopg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.components import Clone, Instance, Supervisor, ports
from faultline.components.component import Address
from faultline.components.faults import Direction, Fault
from faultline.components.proxy import FaultProxy, Injected, Match
from faultline.components.tools import FAKETIME, NFT, tool
from faultline.testbed.callbacks import Callback, Interface
from faultline.testbed.edges import Edge, Place, sweep
from faultline.testbed.errors import Broken, BudgetMissed, Raised, TestbedError, Vacuous
from faultline.testbed.faked_clock import FakedClock
from faultline.testbed.held_transaction import HeldTransaction
from faultline.testbed.history import History
from faultline.testbed.injected_clock import InjectedClock
from faultline.testbed.learner import Birth
from faultline.testbed.lossy_network import LossyNetwork, lossy_network
from faultline.testbed.nursery import Nursery
from faultline.testbed.postgres import Database, PostgresServer, ProxiedPostgres, SharedPostgres
from faultline.testbed.process import LearnerProcess, Remote
from faultline.testbed.rabbitmq import Broker, OwnBroker, RabbitServer
from faultline.testbed.redis import ProxiedRedis, RedisServer
from faultline.testbed.replica_lag import PostgresReplica, RedisReplica, Replica
from faultline.testbed.republisher import Noise, Republisher
from faultline.testbed.service import Service
from faultline.testbed.speed import Lateness, measured_lateness
from faultline.testbed.timeline import brief
from faultline.testbed.tiny_disk import TinyDisk, tiny_disk
from faultline.testbed.upstream import Answering, ProxiedUpstream, Upstream

Way = ProxiedRedis | ProxiedPostgres | ProxiedUpstream

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
    clone: Clone
    patience: float = 1.0  # factor on budgets, above 1 on the second try
    broker: tuple[str, int, int] | None = None  # host, port and management port of the RabbitMQ that checks share
    databases: SharedPostgres | None = None  # the PostgreSQL that the checks of a run share
    timer: asyncio.Timeout | None = None  # of the check
    history: History = field(default_factory=History)
    random: Random = field(init=False)
    printed: str = ""  # the end of what each process has printed, once all have ended
    late: dict[str, float] = field(default_factory=dict)  # seconds over budget that patience has let pass, by promise
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _faults: list[_Expected] = field(default_factory=list)
    _processes: list[LearnerProcess] = field(default_factory=list)
    _callbacks: list[Callback] = field(default_factory=list)
    _upstreams: list[Upstream] = field(default_factory=list)
    _servers: int = 0
    _clocks: int = 0

    def __post_init__(self) -> None:
        """Every random choice of the check comes from its seed."""
        self.random = Random(self.seed)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        *,
        solution: Solution,
        folder: Path,
        seed: int,
        nursery: Nursery,
        clone: Clone,
        patience: float = 1.0,
        broker: tuple[str, int, int] | None = None,
        databases: SharedPostgres | None = None,
    ) -> "AsyncIterator[Testbed]":
        """A testbed that keeps its files in `folder` and ends all it started when the block ends."""
        nursery.attach()
        try:
            async with Supervisor(folder, clone) as supervisor, measured_lateness() as lateness:
                testbed = cls(solution, folder, seed, nursery, supervisor, lateness, clone, patience, broker, databases)
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

    async def redis(
        self, *, durable: bool = False, disk: TinyDisk | None = None, clock: FakedClock | None = None
    ) -> RedisServer:
        """A Redis of its own; `durable`: with an append-only file that is synced on every write.

        With a `disk` its append-only file is on that, and synced every second: so it goes on, refusing writes, when
        the disk is full (synced on every write, it would end). With a `clock` that is the time of day there.
        """
        settings: dict[str, object] = {"append_only": durable, "fsync": "always"}
        if disk:
            settings = {"append_only": True, "fsync": "everysec", "config": {"dir": str(disk.folder)}}
        instance, truth = await self._redis(settings | _environment(clock))
        server = RedisServer(instance, truth, self.history, clock=clock)
        if clock:
            await clock.started(server)
        return server

    async def faked_clock(self) -> FakedClock:
        """A time of day for servers, which the check moves; a pass counts only if a server says that it has moved."""
        with self._uncounted():
            library = await tool(FAKETIME, self.clone)
        self._clocks += 1
        clock = FakedClock(self.folder / f"faked-clock-{self._clocks}", library.path, self.history)
        self.must_hit("the servers' clock that the check moves", lambda: clock.moves)
        return clock

    async def tiny_disk(self, megabytes: int = 4) -> TinyDisk:
        """A disk that the check fills and empties; a pass counts only if somebody found it full."""
        self._servers += 1
        mount_point = self.folder / f"disk-{self._servers}"
        disk = await self._stack.enter_async_context(tiny_disk(mount_point, megabytes, self.history))
        self.must_hit("full disk", lambda: int(disk.was_full))
        return disk

    async def redises(self, count: int, *, durable: bool = False) -> list[RedisServer]:
        """So many independent servers."""
        return list(await asyncio.gather(*(self.redis(durable=durable) for _ in range(count))))

    async def redis_replica(self, primary: RedisServer) -> RedisReplica:
        """A Redis that copies `primary`; for `lagging`."""
        link = FaultProxy(primary.instance.host, primary.instance.port, seed=self.seed)
        await self._stack.enter_async_context(link)
        instance, truth = await self._redis({"replica_of": link})
        return RedisReplica(instance, truth, self.history, primary, link)

    async def postgres(
        self, *, config: Mapping[str, str] | None = None, clock: FakedClock | None = None
    ) -> PostgresServer:
        """A PostgreSQL of its own, with any settings of postgresql.conf; with a `clock` that is the time of day there.

        It does not force its writes to disk: what is committed survives kill -9 all the same, and it is faster.
        """
        settings = {"fsync": False, "config": config or {}} | _environment(clock)
        server = PostgresServer(await self._start("postgres", settings), self.history, clock)
        self._stack.push_async_callback(server.close)
        if clock:
            await clock.started(server)
        return server

    async def database(self) -> Database:
        """A database of its own on a PostgreSQL that the checks of a run share, for whoever breaks no server.

        It is there in a tenth of the time; the start of that server, which the first check waits for, is not counted.
        """
        if self.databases is None:
            raise TestbedError("this run shares no PostgreSQL; ask for `testbed.postgres()`")
        with self._uncounted():
            database = await self.databases.database()
        self._stack.push_async_callback(database.close)
        return database

    async def postgres_replica(self, primary: PostgresServer) -> PostgresReplica:
        """A streaming replica of `primary`; for `lagging`."""
        instance = await self._start("postgres", {"fsync": False, "replica_of": primary.instance})
        replica = PostgresReplica(instance, self.history, primary=primary)
        self._stack.push_async_callback(replica.close)
        return replica

    @overload
    async def proxy(self, server: RedisServer, *, over: LossyNetwork | None = None) -> ProxiedRedis: ...

    @overload
    async def proxy(self, server: PostgresServer, *, over: LossyNetwork | None = None) -> ProxiedPostgres: ...

    @overload
    async def proxy(self, server: Upstream | Service, *, over: LossyNetwork | None = None) -> ProxiedUpstream: ...

    async def proxy(
        self, server: RedisServer | PostgresServer | Upstream | Service, *, over: LossyNetwork | None = None
    ) -> Way:
        """A way to the server on which faults can be put, and requests counted and held; `over` a network of ours."""
        match server:
            case RedisServer():
                return ProxiedRedis(await self._before(server.instance, "redis", over), server)
            case PostgresServer():
                return ProxiedPostgres(await self._before(server.instance, "postgres", over), server)
            case Upstream() | Service():
                return ProxiedUpstream(await self._before(server, "turns", over), server)

    async def _before(
        self, server: Address, protocol: Literal["redis", "postgres", "turns"], over: LossyNetwork | None
    ) -> FaultProxy:
        if over:
            beyond = FaultProxy(server.host, server.port, near=over.make)
            server = await self._stack.enter_async_context(beyond)
        far = over.caller if over else None
        proxy = FaultProxy(server.host, server.port, seed=self.seed, protocol=protocol, far=far)
        return await self._stack.enter_async_context(proxy)

    async def lossy_network(self) -> LossyNetwork:
        """A network for ways that loses packets when the check says; a pass counts only if the kernel dropped one."""
        with self._uncounted():
            nft = await tool(NFT, self.clone)
        network = await self._stack.enter_async_context(lossy_network(nft, self.history))
        self.must_hit("packet loss", lambda: network.lost)
        return network

    async def _redis(self, settings: Mapping[str, object]) -> tuple[Instance, Redis]:
        instance = await self._start("redis", settings)
        truth = Redis(host=instance.host, port=instance.port, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)
        self._stack.push_async_callback(truth.aclose)
        return instance, truth

    async def _start(self, component: str, settings: Mapping[str, object]) -> Instance:
        self._servers += 1
        return await self.supervisor.start(component, name=f"{component}-{self._servers}", settings=settings)

    async def rabbitmq(self) -> Broker:
        """A virtual host of its own on the RabbitMQ that the checks share; the module names it in `components`."""
        if self.broker is None:
            raise TestbedError("no RabbitMQ was started for this run; name rabbitmq in the components of module.toml")
        return await self._stack.enter_async_context(RabbitServer(*self.broker).vhost(self.folder.name))

    async def own_rabbitmq(self) -> OwnBroker:
        """A whole RabbitMQ of its own, to be killed and paused; the seconds that it starts in are not the check's."""
        self._servers += 1
        with self._uncounted():
            instance = await self.supervisor.start("rabbitmq", name=f"rabbitmq-{self._servers}")
        self._stack.callback(instance.kill_now)  # or its end would take as long as its start
        return OwnBroker(RabbitServer.of(instance), "/", instance, self.history, self._uncounted)

    async def republisher(
        self, near: Broker, exchange: str, noise: Noise, *, kind: str = "topic", keys: Sequence[str] = ("#",)
    ) -> Republisher:
        """A way from that exchange to a virtual host behind it, `far`; each noise that is on must have hit for a pass.

        The exchange is declared on both sides, durable and of that `kind`; messages with these `keys` go over.
        """
        far = await self._stack.enter_async_context(near.server.vhost(self.folder.name))
        way = Republisher(noise, self.seed, far)
        await self._stack.enter_async_context(way.between(near, exchange, kind=kind, keys=keys))
        for what in ("twice", "swapped", "spoilt"):
            if getattr(noise, what):
                hits = partial(way.counts.__getitem__, what)
                self.must_hit(f"messages of {exchange} {what}", hits, passed=lambda: way.counts["seen"])
        return way

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """The check's time stands still: what happens in the block is ours."""
        end = self.timer.when() if self.timer else None
        if self.timer is None or end is None:  # no limit, or a block around this one has stopped it
            yield
            return
        loop = asyncio.get_running_loop()
        left = end - loop.time()
        self.timer.reschedule(None)
        try:
            yield
        finally:
            self.timer.reschedule(loop.time() + left)

    async def upstream(self, answer: Answering, *, name: str = "upstream") -> Upstream:
        """An HTTP service that answers as the check's function says, async or not, and knows what it was asked."""
        upstream = Upstream(name, answer, self.history, self.patience)
        self._upstreams.append(upstream)
        return await self._stack.enter_async_context(upstream.serving())

    # -- the learner's code --------------------------------------------------------------------------------------

    async def process(self, name: str, *, clock_offset: float = 0.0, foreseeable: bool = False) -> LearnerProcess:
        """A process with the solution loaded on first use; its wall clock is off by `clock_offset` seconds.

        Two `foreseeable` ones do the same by chance: their `random` begins alike, and their wall clock stands still.
        """
        scratch = self.folder / f"{name}.files"
        scratch.mkdir(exist_ok=True)  # two may have one name
        process = LearnerProcess(name, self.history, self.folder / f"{name}.out", self.patience)
        birth = Birth(
            name=name,
            folder=str(self.solution_files.folder),
            module=self.solution_files.module,
            scratch=str(scratch),
            output=str(process.output),
            places=str(process.output.with_suffix(".places")),
            hidden=self.solution_files.hidden,
            clock_offset=clock_offset,
            foreseeable=foreseeable,
        )
        self._processes.append(process)  # from now on it is ended, also if it is only half begun
        await process.begin(self.nursery, birth)
        return process

    async def processes(self, count: int, name: str) -> list[LearnerProcess]:
        """So many processes, called `name`-1 and so on."""
        return list(await asyncio.gather(*(self.process(f"{name}-{number}") for number in range(1, count + 1))))

    async def serve(
        self, process: LearnerProcess, app: Remote | str, *, port: int | None = None, within: float = 5.0
    ) -> Service:
        """Have the process serve an ASGI app of the solution, or what has this name there; returns when it accepts.

        The port is a free one of its own; with `port` that of a service whose process has ended. Raises what the app
        raised at its start, `ProcessDied`, or `BudgetMissed` after `within` seconds.
        """
        if isinstance(app, str):
            app = await process.get(app)
        if port is None:
            port = self._stack.enter_context(ports.reserved())
        elif not ports.is_free(port):
            raise TestbedError(f"port {port} is still held by {ports.holder(port)}")
        began = time.monotonic()
        try:
            await asyncio.wait_for(process.serve(app, ports.HOST, port), within * self.patience)
        except TimeoutError:
            took = time.monotonic() - began
            promise = f"the app of {process.name} accepts connections"
            seen = f"the app of {process.name} did not come up within {took:.1f} s: it accepts no connections"
            raise BudgetMissed(seen, promise=promise, took=took) from None
        return Service(process, port, self.history)

    def callback(self, function: Callable[..., Any], *, name: str | None = None, tells: bool = False) -> Callback:
        """`function` as an argument for the learner's code, which awaits it there; it runs here and is counted.

        With `tells` it is a plain function there that returns None at once, for what only wants to be told.
        """
        number = len(self._callbacks) + 1
        made = Callback(number, name or function.__name__, function, patience=self.patience, tells=tells)
        self._callbacks.append(made)
        return made

    def interface(self, **functions: Callable[..., Any]) -> Interface:
        """Functions as the async methods of one object for the learner's code: a database, an upstream, a store."""
        return Interface({name: self.callback(function, name=name) for name, function in functions.items()})

    def clock(self, start: float = 1000.0) -> InjectedClock:
        """A clock for the learner's code that shows `start` seconds until the check sets it."""
        self._clocks += 1
        clock = InjectedClock(self.folder / f"clock-{self._clocks}", start)
        self._stack.callback(clock.close)
        self.must_hit("the clock that the check sets", lambda: int(clock.was_read and clock.settings > 0))
        return clock

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

    def inject(
        self, way: Way, fault: Fault, direction: Direction | None = None, *, on: Match | None = None
    ) -> Injected:
        """Let a network fault strike on that way; a pass counts only if it did.

        `on`: only the connections on which such a request has passed until now.
        """
        injected = way.proxy.add(fault, direction, on=on)
        self.history.note("network", f"{fault} before {way.server.name}")
        before = way.requests
        self.must_hit(str(fault), lambda: injected.hits, passed=lambda: way.requests - before)
        return injected

    def must_hit(self, name: str, hits: Callable[[], int], *, passed: Callable[[], int] = lambda: 0) -> None:
        """A pass counts only if `hits()` is positive at the end of the check; `passed()` is what it could have hit."""
        self._faults.append(_Expected(name, hits, passed))

    def prove_faults(self) -> None:
        """Raise `Vacuous` for a fault that did not hit, and what a function of the check itself did wrong."""
        self._prove_own_functions()
        for expected in self._faults:
            if expected.hits() < 1:
                raise Vacuous(f"the fault '{expected.fault}' never hit, so this check has proved nothing")

    def prove_faults_met(self) -> None:
        """Raise `Vacuous` for a fault that let requests pass and hit none: then a failure proves nothing either."""
        self._prove_own_functions()
        for expected in self._faults:
            if expected.hits() < 1 and (passed := expected.passed()):
                raise Vacuous(f"the fault '{expected.fault}' hit none of {passed} requests, so nothing is known")

    def _prove_own_functions(self) -> None:
        for callback in self._callbacks:
            callback.prove()
        for upstream in self._upstreams:
            upstream.prove()

    async def edges(self, *places: Place, at_most: int = 200) -> AsyncIterator[Edge]:
        """One run after the other, each killed at an edge that none was killed at; the last one meets no new edge.

        `places` are the ways and callbacks whose requests have edges; the block brings the world to its beginning,
        makes a process, and gives it to `edge.kills`. `TestbedError` for more than `at_most` edges.
        """
        met = list[Edge]()
        self.must_hit("kill at an edge", lambda: sum(edge.hit for edge in met))
        async for edge in sweep(places, at_most):
            met.append(edge)
            yield edge

    @asynccontextmanager
    async def lagging(self, replica: Replica) -> AsyncIterator[None]:
        """During the block the replica stays where its primary is now; afterwards it is level again.

        A pass counts only if the primary has written meanwhile.
        """
        missed = list[int]()
        self.must_hit(f"lag of {replica.name}", lambda: sum(missed))
        await replica.stall()
        try:
            yield
        finally:
            missed.append(await replica.catch_up())

    @asynccontextmanager
    async def held_transaction(self, server: PostgresServer, *statements: str) -> AsyncIterator[HeldTransaction]:
        """A transaction of the check's that has executed these statements and stays open; rolled back with the block.

        It holds its locks, and what it wrote is there for nobody, until the check commits it.
        """
        async with await server.connect() as connection:
            held = HeldTransaction(server, connection, self.patience)
            for statement in statements:
                await held.execute(statement)
            self.history.note(server.name, f"held open: {brief('; '.join(statements), 60)}")
            try:
                yield held
            finally:
                with suppress(psycopg.OperationalError):  # its server was killed, and the transaction with it
                    await connection.rollback()

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


def _environment(clock: FakedClock | None) -> dict[str, object]:
    return {"environment": clock.environment} if clock else {}
