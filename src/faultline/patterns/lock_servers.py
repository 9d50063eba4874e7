"""The servers of one lock, asked as one: what each answered, and what each may still hold for whom."""

from __future__ import annotations

import asyncio
import math
import os
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from redis.exceptions import MaxConnectionsError, RedisError

from faultline.patterns.lock_scripts import EXTEND, GIVE_BACK, TAKE, VOID_MS, Commands, Keys, Script

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Sequence
    from typing import Any

    Answers = list[int | None]
    """By server: above 0 for yes, otherwise no; None where no answer came."""

FOR_NOW, FOR_GOOD = 0, VOID_MS  # how long to refuse an owner of whom a request may still be under way
STRAGGLERS = 0.05  # seconds for servers whose answer changes nothing any more
BUSY, PERSISTENCE = 0.01, 100  # seconds until one of a client's connections may be free again, and how often to look


class Claim:
    """What one owner has on each server: nothing, the lock, or nobody knows."""

    __slots__ = ("here", "owner", "troubles", "unsure")

    def __init__(self, servers: int) -> None:
        self.owner = os.urandom(16).hex()  # from no generator that a fork copies: two owners are never the same
        self.here = [False] * servers
        self.unsure = [False] * servers
        self.troubles: list[Exception | None] = [None] * servers

    @property
    def open(self) -> list[int]:
        """The servers that may hold something of this owner."""
        return [server for server in range(len(self.here)) if self.here[server] or self.unsure[server]]

    @property
    def answered(self) -> list[int]:
        """The servers that answered when they were asked last."""
        return [server for server, trouble in enumerate(self.troubles) if trouble is None]

    @property
    def trouble(self) -> str:
        """Why the servers that did not answer last did not."""
        return "; ".join(f"{type(trouble).__name__}: {trouble}" for trouble in self.troubles if trouble)


class Servers:
    """Asks all servers at the same time and returns once a majority has decided; raises nothing of theirs.

    A server that is cut off, because it is too slow or because the caller was cancelled, is `unsure` in the claim: the
    request may have arrived, may arrive later, or never.
    """

    def __init__(self, clients: Sequence[Commands], name: str) -> None:
        self._clients = tuple(clients)
        self._keys = Keys.of(name)
        self.majority = len(self._clients) // 2 + 1
        self.silence = max(_silence(client) for client in self._clients)
        """Seconds after which the clients themselves give a silent server up."""

    def __len__(self) -> int:
        return len(self._clients)

    def agree(self, answers: Answers) -> bool:
        """Whether the majority said yes."""
        return sum(answer is not None and answer > 0 for answer in answers) >= self.majority

    def refuse(self, answers: Answers) -> bool:
        """Whether so many said no that there is no majority to be had."""
        refused = sum(answer is not None and answer <= 0 for answer in answers)
        return refused > len(self._clients) - self.majority

    async def take(self, claim: Claim, *, ttl: float, waiting: int) -> Answers:
        """A token from each server that was free; minus the milliseconds until it is from each that was not."""
        if len(self._clients) == 1:
            return [await self._take(0, claim, ttl, waiting)]
        return await self._ask(
            lambda server: self._take(server, claim, ttl, waiting),
            range(len(self._clients)),
            within=max(ttl, STRAGGLERS),  # a try that takes longer has failed
        )

    async def extend(self, claim: Claim, *, ttl: float) -> Answers:
        """1 from each server where the lease was still the claim's."""
        keys = (self._keys.lease,)
        return await self._ask(
            lambda server: self._run(server, claim, EXTEND, keys, claim.owner, _milliseconds(ttl)),
            range(len(self._clients)),
            within=max(ttl, STRAGGLERS),
        )

    async def give_back(self, claim: Claim, *, within: float) -> Answers:
        """1 from each server where the lease was still the claim's; for good: its owner never gets it again."""
        return await self._ask(lambda server: self._give_back(server, claim, FOR_GOOD), claim.open, within=within)

    async def put_back(self, claim: Claim, *, within: float) -> None:
        """Free the minority that a try has got, so that somebody else gets the majority; its owner may try again."""
        held = [server for server, here in enumerate(claim.here) if here]
        await self._ask(lambda server: self._give_back(server, claim, FOR_NOW), held, within=within)

    async def settle(self, claims: Collection[Claim], servers: Sequence[int], *, within: float) -> None:
        """Take back from these servers whatever any of the claims may have there; waits for all of them."""

        async def settle_one(server: int) -> None:
            for claim in claims:
                if server in claim.open:
                    await self._give_back(server, claim, FOR_GOOD)

        with suppress(TimeoutError):  # the claims say what is still open
            async with asyncio.timeout(within), asyncio.TaskGroup() as group:
                for server in servers:
                    group.create_task(settle_one(server))

    async def wake(self, seconds: float) -> bool:
        """Wait until a holder of the only server frees the lock: False when waiting there is not possible.

        Redis looks at its timeouts ten times a second: the answer comes up to 0.1 s after `seconds`.
        """
        try:
            await self._clients[0].execute_command("BLPOP", self._keys.wake, f"{max(seconds, 0.01):.3f}")
        except (RedisError, OSError):
            return False
        return True

    async def _take(self, server: int, claim: Claim, ttl: float, waiting: int) -> int | None:
        missed, claim.unsure[server] = claim.unsure[server], True
        keys = (self._keys.lease, self._keys.fence, self._keys.waiting, self._keys.voids + claim.owner)
        answer = await self._run(server, claim, TAKE, keys, claim.owner, _milliseconds(ttl), waiting)
        if answer is not None:
            claim.unsure[server] = missed
            claim.here[server] = answer > 0
        return answer

    async def _give_back(self, server: int, claim: Claim, void: int) -> int | None:
        missed, claim.unsure[server] = claim.unsure[server], True
        keys = (self._keys.lease, self._keys.wake, self._keys.waiting, self._keys.voids + claim.owner)
        for _ in range(PERSISTENCE):
            answer = await self._run(server, claim, GIVE_BACK, keys, claim.owner, void if missed else FOR_NOW)
            if answer is not None:
                claim.here[server] = False
                claim.unsure[server] = missed and void == FOR_NOW
                return answer
            if not isinstance(claim.troubles[server], MaxConnectionsError):
                break
            await asyncio.sleep(BUSY)  # the waiters have all connections, and none of them for long
        return None

    async def _run(
        self, server: int, claim: Claim, script: Script, keys: tuple[str, ...], *arguments: str | int
    ) -> int | None:
        try:
            answer = await script.run(self._clients[server], keys, *arguments)
        except (RedisError, OSError) as error:
            claim.troubles[server] = error
            return None
        claim.troubles[server] = None
        return answer

    async def _ask(
        self,
        question: Callable[[int], Coroutine[Any, Any, int | None]],
        servers: Sequence[int],
        *,
        within: float,
    ) -> Answers:
        answers: Answers = [None] * len(self._clients)
        if len(servers) == 1:
            with suppress(TimeoutError):
                async with asyncio.timeout(within) if within < self.silence else nullcontext():
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


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _silence(client: Commands) -> float:
    settings = client.get_connection_kwargs()
    limits = [settings.get("socket_connect_timeout"), settings.get("socket_timeout")]
    return sum(math.inf if limit is None else limit for limit in limits)
