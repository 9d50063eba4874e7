"""A distributed lock with fencing tokens, without a script: by transactions, and by looking before each change.

On every server two keys: the owner, which expires, and the counter that the tokens come from.

    take      MULTI  SET owner … NX GET PX ttl  INCR counter  PTTL owner  EXEC
    extend    WATCH owner  GET owner   if it is ours:  MULTI  PEXPIRE owner ttl  EXEC
    release   WATCH owner  GET owner   if it is ours:  MULTI  DEL owner  EXEC

EXEC does nothing if the owner has changed since WATCH. A waiter tries again after a random pause.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

_PATIENCE = 0.18  # with one answer: what takes longer than 0.15 s need not count
_OVERTIME = 0.47  # for taking back what the last try has left, measured from the end of the timeout
_TRY = 0.12  # seconds that a try has to pay for: it sends five commands, and a second has room for fifty

Question = Callable[[Redis], Awaitable[float]]
Answer = float | None  # above 0 is a yes, None is silence
Tries = dict[Redis, set[bytes]]  # what may stand as the owner on which server


class LockUnavailable(Exception):
    """Not acquired within the timeout; nothing is left behind on the servers that answer."""


class LockLost(Exception):
    """The lease is no longer ours, or too few servers say that it is."""


class _Servers:
    """The lock's two keys on all its servers."""

    def __init__(self, clients: Sequence[Redis], name: str, ttl: float) -> None:
        self.clients, self.name, self.ttl = list(clients), name, ttl
        self._ms = str(round(ttl * 1000) + 1)  # the server may be late in its current millisecond
        self._owner, self._counter = f"{name}:owner", f"{name}:counter"

    def granted(self, answers: Sequence[Answer]) -> bool:
        return sum(answer is not None and answer > 0 for answer in answers) > len(self.clients) // 2

    async def take(self, owner: bytes) -> list[Answer]:
        """From each server our token, or minus the seconds for which somebody else has the lock."""

        async def take(client: Redis) -> float:
            setting = ("SET", self._owner, owner, "NX", "GET", "PX", self._ms)
            async with _conversation(client) as say:
                *_, done = await say(("MULTI",), setting, ("INCR", self._counter), ("PTTL", self._owner), ("EXEC",))
            before, token, left = done
            return token if before in (None, owner) else -max(left, 0) / 1000  # ours: we have asked twice

        return await self._ask(take)

    async def extend(self, owner: bytes) -> bool:
        return self.granted(await self._ask(lambda client: self._change(client, [owner], "PEXPIRE", self._ms)))

    async def free(self, tries: Tries, within: float) -> bool:
        """Free what these tries have taken, and forget them where a server has answered."""
        freeing = (self._free(client, ours, within) for client, ours in tries.items())
        return self.granted(await asyncio.gather(*freeing))

    async def _free(self, client: Redis, ours: set[bytes], within: float) -> Answer:
        answer = await _answer(client, lambda client: self._change(client, ours, "DEL"), within)
        if answer is not None:
            ours.clear()
        return answer

    async def _change(self, client: Redis, ours: Collection[bytes], command: str, *arguments: str) -> float:
        """1 if the owner was one of `ours` and has been changed, 0 if it was not."""
        if not ours:
            return 0
        async with _conversation(client) as say:
            while True:
                _, owner = await say(("WATCH", self._owner), ("GET", self._owner))
                if owner not in ours:
                    await say(("UNWATCH",))
                    return 0
                *_, done = await say(("MULTI",), (command, self._owner, *arguments), ("EXEC",))
                if done is not None:  # else something came between: look again
                    return done[0]

    async def _ask(self, question: Question) -> list[Answer]:
        """All answers, if they come while most of the lease is left; later only those that a majority needs."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_answer(client, question, 2 * _PATIENCE)) for client in self.clients]
            _, late = await asyncio.wait(asked, timeout=self.ttl / 5)
            while late and not self.granted([task.result() for task in asked if task.done()]):
                _, late = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
            for task in late:
                task.cancel()
        return [None if task.cancelled() else task.result() for task in asked]


class Lease:
    """The right to work until it runs out, is released or is extended."""

    def __init__(self, servers: _Servers, owner: bytes, token: int, ends: float) -> None:
        self._servers, self._owner, self._token, self._ends = servers, owner, token, ends
        self._over = False

    @property
    def token(self) -> int:
        """With one client: larger than every token before it."""
        return self._token

    @property
    def valid_for(self) -> float:
        """Seconds for which nobody else can get the lock, never negative."""
        return 0.0 if self._over else max(0.0, self._ends - monotonic())

    async def extend(self) -> None:
        """Start a new full `ttl`, or raise `LockLost`."""
        ends = monotonic() + self._servers.ttl
        extended = not self._over and await self._servers.extend(self._owner)
        if not extended or self._over or monotonic() >= ends:
            self._over = True
            raise LockLost(f"{self._servers.name}: the lease with token {self._token} is over")
        self._ends = max(self._ends, ends)

    async def release(self) -> bool:
        """Free the lock at once: True if it was still ours on the majority of the servers."""
        self._over = True
        return await self._servers.free({client: {self._owner} for client in self._servers.clients}, _OVERTIME)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.release()


class DistributedLock:
    """At most one valid lease for a name at any time."""

    def __init__(self, clients: Sequence[Redis], name: str, ttl: float) -> None:
        if len(clients) % 2 == 0:
            raise ValueError(f"one client or an odd number of them, not {len(clients)}")
        if not name or not ttl >= 0.001:
            raise ValueError(f"a name and a ttl of at least 0.001 s, not {name!r} and {ttl}")
        self._servers = _Servers(clients, name, ttl)

    async def acquire(self, timeout: float) -> Lease:
        """Wait at most `timeout` seconds for the lock; 0 means one try."""
        servers, began = self._servers, monotonic()
        deadline = began + max(timeout, 0.0)
        paid = began - _TRY  # a second try at once is free, for a lease that is about to expire
        doubtful: Tries = {client: set() for client in servers.clients}
        while True:
            owner, ends = secrets.token_hex(16).encode(), monotonic() + servers.ttl
            answers = await servers.take(owner)
            if servers.granted(answers) and monotonic() < ends:
                return Lease(servers, owner, int(max(filter(None, answers))), ends)
            for client, answer in zip(servers.clients, answers, strict=True):
                if answer is None or answer > 0:
                    doubtful[client].add(owner)
            paid = max(paid, monotonic() - _TRY) + (2 * _TRY if any(doubtful.values()) else _TRY)
            await servers.free(doubtful, deadline + _OVERTIME - monotonic())
            now = monotonic()
            if now >= deadline:
                raise LockUnavailable(f"{servers.name}: not within {timeout} s; the servers' last answers: {answers}")
            await asyncio.sleep(min(max(paid - now, 0.0) + _pause(answers), deadline - now))


def _pause(answers: list[Answer]) -> float:
    """How long to wait: a holder may release it any time, and rivals who split the votes must not meet again."""
    if len(answers) > 1:
        return random.uniform(0.02, 0.16)
    expires = 0.001 - answers[0] if answers[0] is not None else 1.0
    return min(random.uniform(0.12, 0.17), expires)


async def _answer(client: Redis, question: Question, within: float) -> Answer:
    """The server's answer; asked twice if only the connection was dead, for example since a restart."""
    try:
        async with asyncio.timeout(within):
            try:
                return await question(client)
            except RedisConnectionError:
                return await question(client)
    except (RedisError, TimeoutError):
        return None


@asynccontextmanager
async def _conversation(client: Redis) -> AsyncIterator[Callable[..., Awaitable[list[Any]]]]:
    """Say commands to one server, several at once, and hear what it answers to each.

    Why not a Pipeline: it sends WATCH and GET one after the other, and one that is interrupted connects again to
    say UNWATCH, for which it waits as long as the client's `socket_timeout`.
    """
    async with asyncio.timeout(_PATIENCE):
        connection = await client.connection_pool.get_connection()

    async def say(*commands: tuple[str | bytes, ...]) -> list[Any]:
        async with asyncio.timeout(_PATIENCE):
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await connection.read_response() for _ in commands]

    try:
        yield say
    except BaseException:
        await connection.disconnect(nowait=True)  # and with it forget WATCH, and the answers that are still to come
        raise
    finally:
        await client.connection_pool.release(connection)
