"""The servers of one lock, asked as one: what each answered, and what each may still hold for whom."""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import MaxConnectionsError, RedisError

from faultline.patterns.lock_scripts import EXTEND, GIVE_BACK, TAKE, VOID_MS, Client, Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from faultline.patterns.script import Script

    Answers = list[int | None]
    """By server: above 0 for yes, otherwise no; None where no answer came."""

FOR_NOW, FOR_GOOD = 0, VOID_MS  # how long to refuse an owner of whom a request may still be under way
LONGEST = 0.5  # seconds that silent servers may keep a caller
STRAGGLERS = 0.05  # seconds for servers whose answer changes nothing any more
REMEMBERED = 16  # claims that a server could not be asked to take back; older ones have to expire
BUSY, PERSISTENCE = 0.005, 400  # seconds until one of a client's connections may be free again, and how often to look


class Claim:
    """What one owner has on each server: nothing, the lock, or nobody knows. A server is a bit."""

    __slots__ = ("here", "owner", "troubles", "unsure")

    def __init__(self) -> None:
        self.owner = os.urandom(16).hex()  # from no generator that a fork copies: two owners are never the same
        self.here = 0
        self.unsure = 0
        self.troubles: dict[int, object] = {}

    @property
    def open(self) -> int:
        """The servers that may hold something of this owner."""
        return self.here | self.unsure


class Servers:
    """Asks all servers at the same time and returns once a majority has decided; raises nothing of theirs.

    A server that is cut off, because it is too slow or because the caller was cancelled, is `unsure` in the claim: the
    request may have arrived, may arrive later, or never.
    """

    def __init__(self, clients: Sequence[Client], name: str) -> None:
        self._clients = tuple(clients)
        self._keys = Keys.of(name)
        self.majority = len(self._clients) // 2 + 1
        self._unpaid: deque[Claim] = deque(maxlen=REMEMBERED)
        self.silence = max(_silence(client) for client in self._clients)
        """Seconds after which the clients themselves give a silent server up."""

    def __len__(self) -> int:
        return len(self._clients)

    def agree(self, answers: Answers) -> bool:
        """Whether the majority said yes."""
        yes = 0
        for answer in answers:
            if answer is not None and answer > 0:
                yes += 1
        return yes >= self.majority

    def refuse(self, answers: Answers) -> bool:
        """Whether so many said no that there is no majority to be had."""
        refused = sum(answer is not None and answer <= 0 for answer in answers)
        return refused > len(self._clients) - self.majority

    async def take(self, claim: Claim, milliseconds: int, waiting: int) -> Answers:
        """A token from each server that was free; minus the milliseconds until it is from each that was not."""
        if len(self._clients) == 1:
            return [await self._take(0, claim, milliseconds, waiting)]
        return await self._ask(
            lambda server: self._take(server, claim, milliseconds, waiting),
            range(len(self._clients)),
            within=max(milliseconds / 1000, STRAGGLERS),  # a try that takes longer has failed
        )

    async def extend(self, claim: Claim, milliseconds: int) -> Answers:
        """1 from each server where the lease was still the claim's."""
        return await self._ask(
            lambda server: self._run(server, claim, EXTEND, (self._keys.lease,), milliseconds),
            range(len(self._clients)),
            within=LONGEST - STRAGGLERS,
        )

    async def give_back(self, claim: Claim, *, within: float) -> Answers:
        """1 from each server where the lease was still the claim's; for good: its owner never gets it again.

        What a server cannot be asked for is remembered, and taken back when it answers another time.
        """
        try:
            if len(self._clients) == 1 and self.silence <= LONGEST:
                answers = [await self._give_back(0, claim, FOR_GOOD)]
            else:
                held = self._among(claim.open)
                answers = await self._ask(lambda server: self._give_back(server, claim, FOR_GOOD), held, within=within)
        finally:
            if claim.open and claim not in self._unpaid:
                self._unpaid.append(claim)
        await self.settle(claim, within=within)
        return answers

    async def put_back(self, claim: Claim, *, within: float) -> None:
        """Free the minority that a try has got, so that somebody else gets the majority; its owner may try again."""
        held = self._among(claim.here)
        await self._ask(lambda server: self._give_back(server, claim, FOR_NOW), held, within=within)

    async def settle(self, claim: Claim, *, within: float) -> bool:
        """Take back what earlier claims could not, from the servers that have just answered this one: any of it."""
        owing = [
            (server, other)
            for other in self._unpaid
            for server in self._among(other.open)
            if server not in claim.troubles
        ]
        if not owing:
            return False
        with suppress(TimeoutError):  # the claims say what is still open
            async with asyncio.timeout(within), asyncio.TaskGroup() as group:
                for server, other in owing:
                    group.create_task(self._give_back(server, other, FOR_GOOD))
        self._unpaid = deque([other for other in self._unpaid if other.open], REMEMBERED)
        return True

    def describe(self, claim: Claim) -> str:
        """Why servers did not answer when they were asked last; empty when all did."""
        return "; ".join(f"{_address(self._clients[server])}: {why}" for server, why in sorted(claim.troubles.items()))

    async def wake(self, seconds: float) -> bool:
        """Wait until a holder of the only server frees the lock: False when waiting there is not possible.

        Redis looks at its timeouts ten times a second: the answer comes up to 0.1 s after `seconds`.
        """
        try:
            woken = await self._clients[0].execute_command("BLPOP", self._keys.wake, f"{max(seconds, 0.01):.3f}")
        except (RedisError, OSError):
            return False
        if not woken:
            await asyncio.sleep(2 * BUSY)  # the connection is free for a moment, for a holder that has to release
        return True

    def _among(self, bits: int) -> list[int]:
        return [server for server in range(len(self._clients)) if bits & 1 << server]

    async def _take(self, server: int, claim: Claim, milliseconds: int, waiting: int) -> int | None:
        bit = 1 << server
        missed = claim.unsure & bit
        claim.unsure |= bit
        keys = (self._keys.lease, self._keys.fence, self._keys.waiting, self._keys.voids + claim.owner)
        answer = await self._run(server, claim, TAKE, keys, milliseconds, waiting)
        if answer is not None:
            if not missed:
                claim.unsure &= ~bit
            claim.here = claim.here | bit if answer > 0 else claim.here & ~bit
        return answer

    async def _give_back(self, server: int, claim: Claim, void: int) -> int | None:
        bit = 1 << server
        missed = claim.unsure & bit
        claim.unsure |= bit
        keys = (self._keys.lease, self._keys.wake, self._keys.waiting, self._keys.voids + claim.owner)
        for _ in range(PERSISTENCE):
            answer = await self._run(server, claim, GIVE_BACK, keys, void if missed else FOR_NOW)
            if answer is not None:
                claim.here &= ~bit
                if void or not missed:
                    claim.unsure &= ~bit
                return answer
            if not isinstance(claim.troubles[server], MaxConnectionsError):
                break
            await asyncio.sleep(BUSY)  # the waiters have all connections, and none of them for long
        return None

    async def _run(
        self, server: int, claim: Claim, script: Script, keys: tuple[str, ...], *arguments: int
    ) -> int | None:
        claim.troubles[server] = "no answer in time"
        try:
            answer = int(await script.run(self._clients[server], keys, claim.owner, *arguments))
        except (RedisError, OSError) as error:
            claim.troubles[server] = error
            return None
        claim.troubles.pop(server, None)
        return int(answer)

    async def _ask(
        self,
        question: Callable[[int], Coroutine[Any, Any, int | None]],
        servers: Sequence[int],
        *,
        within: float,
    ) -> Answers:
        answers: Answers = [None] * len(self._clients)
        if not servers:
            return answers
        if len(servers) == 1:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    answers[servers[0]] = await question(servers[0])
            return answers

        decided = asyncio.Event()
        pending = len(servers)

        async def ask(server: int) -> None:
            nonlocal pending
            answers[server] = await question(server)
            pending -= 1
            yes = sum(answer is not None and answer > 0 for answer in answers)
            if not pending or yes >= self.majority or yes + pending < self.majority:
                decided.set()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(server)) for server in servers]
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await decided.wait()
                await asyncio.wait(tasks, timeout=STRAGGLERS)
            for task in tasks:
                task.cancel()
        return answers


def _address(client: Client) -> str:
    settings = client.get_connection_kwargs()
    return str(settings.get("path") or f"{settings.get('host')}:{settings.get('port')}")


def _silence(client: Client) -> float:
    settings = client.get_connection_kwargs()
    connecting, answering = settings.get("socket_connect_timeout"), settings.get("socket_timeout")
    retry = settings.get("retry")
    if connecting is None or answering is None or (retry and retry.get_retries()):
        return math.inf
    return float(connecting + answering)
