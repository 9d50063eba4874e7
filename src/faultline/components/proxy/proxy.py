"""The proxy itself: what is listened on, which faults are active, which requests are held."""

import asyncio
import socket
from collections.abc import Callable, Collection
from random import Random
from types import TracebackType
from typing import Self, TypeVar

from faultline.components.faults import Age, Direction, Fate, Fault
from faultline.components.proxy.command import Command, Match
from faultline.components.proxy.conversation import Conversation, Unread
from faultline.components.proxy.counts import Counts
from faultline.components.proxy.hold import Barrier, Hold
from faultline.components.proxy.injected import Injected
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.link import Link, reset
from faultline.components.proxy.listener import HOST, Listener
from faultline.components.proxy.speakers import SPEAKERS, Protocol
from faultline.components.proxy.watcher import Watcher
from faultline.components.proxy_errors import NeedsProtocol

AnyHold = TypeVar("AnyHold", bound=Hold)


class FaultProxy:
    """Carries TCP connections from a free loopback port to a server, with faults and holds as told meanwhile.

        async with FaultProxy("127.0.0.1", 6379, protocol="redis") as proxy:
            late = proxy.add(Latency(0.2))
            ...                                   # a client of proxy.host, proxy.port
            assert late.hits

    Within a connection bytes are delivered in order, unchanged and without gaps, under any mix of faults. It runs in
    the event loop that it is entered in: code that blocks this loop stops it too.
    Closing resets what is open; held and queued bytes are then never delivered.
    Where it listens or calls in another network than ours, `near` or `far` makes the sockets there.
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        *,
        seed: int = 0,
        protocol: Protocol | None = None,
        near: Callable[[], socket.socket] = socket.socket,
        far: Callable[[], socket.socket] | None = None,
    ) -> None:
        self.host = HOST
        self._upstream = (upstream_host, upstream_port)
        self._seed = seed
        self._protocol: Protocol | None = protocol
        self._near = near
        self._far = far
        self._listener: Listener | None = None
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._injected: list[Injected] = []
        self._injections = 0
        self._ledger = Ledger()
        self._broken: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._listener = Listener(self._accepted, self._near)
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener:
            self._listener.close()
        self._ledger.close()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._broken:
            raise BaseExceptionGroup("the fault proxy broke (its own mistake)", self._broken)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._listener, "enter the proxy first: async with FaultProxy(...) as proxy"
        return self._listener.port

    @property
    def calls_from_elsewhere(self) -> bool:
        """Whether its connections to the server begin in another network, so that the server knows them by others."""
        return self._far is not None

    @property
    def counts(self) -> Counts:
        """What went through until now."""
        return self._ledger.tally.counts()

    @property
    def commands(self) -> list[Command]:
        """The last 10,000 requests in the order in which they reached the proxy, handshakes included."""
        return list(self._ledger.commands)

    def add(self, fault: Fault, direction: Direction | None = None, *, on: Match | None = None) -> Injected:
        """Let a fault strike from now on, open connections too; without a direction, in the fault's usual one.

        `on`: only the connections on which such a request has passed until now, and no new one.
        """
        self._injections += 1
        injected = Injected(fault, direction or fault.usual, self._injections, on and self._connections_with(on))
        self._injected.append(injected)
        self._listen()
        for link in list(self._links):
            if injected.strikes(link.number):
                self._inject(injected, link, Age.OPEN)
        return injected

    def _connections_with(self, match: Match) -> frozenset[int]:
        if self._protocol is None:
            raise NeedsProtocol
        return frozenset(command.connection for command in self._ledger.commands if match(command.args))

    def remove(self, injected: Injected) -> None:
        """End this fault: what it delayed goes on at once. Removing it twice changes nothing."""
        if not injected.active:
            return
        injected.end()
        self._injected.remove(injected)
        self._listen()
        for link in list(self._links):
            for pipe in link.pipes:
                pipe.cure(injected)

    def heal(self) -> None:
        """Remove all faults; holds stay."""
        for injected in list(self._injected):
            self.remove(injected)

    def hold(self, match: Match, n: int = 1, *, skip: int = 0) -> Hold:
        """Hold the next `n` requests that match, after `skip` that are let through.

        A held request has not reached the server whole; the rest of its connection's requests queue behind it.
        Handshakes are never held. Of several holds that match, the oldest has the request.
        """
        return self._keep(Hold(match, n, skip=skip, seen=self._ledger.last_seen), self._ledger.request_holds)

    def hold_reply(self, match: Match, n: int = 1, *, skip: int = 0) -> Hold:
        """Hold the replies to the next `n` requests that match: the server has acted, the client does not know it.

        `reached` returns once the first byte of the (last) reply is in the proxy's hands.
        """
        return self._keep(Hold(match, n, skip=skip, seen=self._ledger.last_seen), self._ledger.reply_holds)

    def barrier(self, n: int, match: Match) -> Barrier:
        """Hold `n` matching requests until all of them are there, then let them all go."""
        return self._keep(Barrier(match, n, skip=0, seen=self._ledger.last_seen), self._ledger.request_holds)

    def watch(self, watcher: Watcher | None) -> None:
        """Tell this watcher of every request from now on, handshakes excepted; None: nobody any more."""
        if self._protocol is None:
            raise NeedsProtocol
        self._ledger.watcher = watcher

    async def sever(self) -> list[int]:
        """Hang up on both sides of every connection, also of those not accepted yet; what is held or queued is lost.

        As when the client dies: what it had sent before is with the server. Returns the ports from which the proxy
        had connected to the server, once these are closed.
        """
        ports = [port for link in self._links if (port := link.upstream_port)]
        for link in list(self._links):
            link.end(Fate.CUT)
        if self._listener:
            self._listener.shut()
        self._listen()
        await asyncio.gather(*self._links.values(), return_exceptions=True)
        return ports

    def client_ports(self) -> dict[int, int]:
        """From which ports its open connections come, by their numbers, as `Command.connection` has them."""
        return {link.number: port for link in self._links if (port := link.client_port)}

    async def hang_up(self, connections: Collection[int]) -> None:
        """As `sever`, on these connections alone, by number; returns when the server has been told."""
        mine = {link: task for link, task in self._links.items() if link.number in connections}
        for link in mine:
            link.end(Fate.CUT)
        await asyncio.gather(*mine.values(), return_exceptions=True)

    def _accepted(self, client: socket.socket) -> None:
        self._ledger.tally.accepted += 1
        number = self._ledger.tally.accepted
        speaker = SPEAKERS[self._protocol] if self._protocol else None
        conversation: Conversation = speaker(number, self._ledger) if speaker else Unread()
        link = Link(number, conversation=conversation, tally=self._ledger.tally)
        for injected in self._injected:
            if not injected.strikes(number):
                continue
            if injected.fault.fate_of(Age.NEW) is not Fate.PASS:
                injected.hit()
                reset(client)
                return
            self._inject(injected, link, Age.NEW)
        self._ledger.tally.open += 1
        task = asyncio.get_running_loop().create_task(link.run(client, self._upstream, far=self._far))
        self._links[link] = task
        task.add_done_callback(lambda task: self._closed(link, task))

    def _closed(self, link: Link, task: asyncio.Task[None]) -> None:
        del self._links[link]
        self._ledger.tally.open -= 1
        if not task.cancelled() and (error := task.exception()):
            self._broken.append(error)

    def _inject(self, injected: Injected, link: Link, age: Age) -> None:
        fate = injected.fault.fate_of(age)
        if fate is not Fate.PASS:
            injected.hit()
            link.end(fate)
            return
        for pipe in link.pipes:
            key = f"{self._seed}/{injected.number}/{link.number}/{pipe.way.value}"
            pipe.inject(injected, Random(key), age)

    def _listen(self) -> None:
        if self._listener is None:
            return
        if any(injected.fault.refuses for injected in self._injected):
            self._listener.shut()
        else:
            self._listener.open()

    def _keep(self, hold: AnyHold, holds: list[Hold]) -> AnyHold:
        if self._protocol is None:
            raise NeedsProtocol
        holds[:] = [other for other in holds if not other.is_open]
        holds.append(hold)
        return hold
