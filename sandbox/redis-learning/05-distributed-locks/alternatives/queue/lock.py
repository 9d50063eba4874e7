"""A distributed lock with fencing tokens, whose release wakes the waiter who has waited longest.

    name/state         who holds the lock, and the last token; stays for ever
    name/lease/<id>    one for each lease: while it exists, its holder holds the lock
    name/wake          a list on which the waiters block; a release puts one element there, so it wakes one of them

Each lease is a key of its own, so extending (SET XX) and releasing (DEL) are plain commands which cannot touch
another's lease. Only taking needs a script. A wake-up may get lost (a dead waiter takes it along), therefore nobody
relies on it for longer than 0.1 seconds. With several servers waiters pause at random instead.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

# The new token; or, while another lease lives, -1 and minus the milliseconds that it has left.
_TAKE = """
local state, leases, id, ttl = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
for i = 3, #ARGV do redis.call('DEL', leases .. ARGV[i]) end
local holder = redis.call('HGET', state, 'holder')
if holder and holder ~= id then
    local left = redis.call('PTTL', leases .. holder)
    if left >= 0 then return -1 - left end
end
redis.call('SET', leases .. id, '', 'PX', ttl)
redis.call('HSET', state, 'holder', id)
return redis.call('HINCRBY', state, 'token', 1)
"""
_PATIENCE = 0.27  # with the servers when something is asked for; a new connection takes some answers more
_FREEING = 0.17  # with the servers when something is given back; both together make a call's last half second

Question = Callable[[Redis], Awaitable[Any]]
Votes = list[int | None]  # above 0 is a yes, None is silence


class LockUnavailable(Exception):
    """Not acquired within the timeout; nothing is left behind on the servers that answer."""


class LockLost(Exception):
    """The lease is no longer ours, or too few servers say that it is."""


class _Servers:
    """The lock's keys on all its servers."""

    def __init__(self, clients: Sequence[Redis], name: str, ttl: float) -> None:
        self.name, self.ttl = name, ttl
        self._clients = list(clients)
        self._ms = round(ttl * 1000) + 1  # the server may be late in its current millisecond
        self._state, self._leases, self._wake = f"{name}/state", f"{name}/lease/", f"{name}/wake"

    def granted(self, votes: Votes) -> bool:
        return sum(vote is not None and vote > 0 for vote in votes) > len(self._clients) // 2

    async def take(self, identity: str, given_up: list[str]) -> Votes:
        """Take the lock, and back what earlier tries of the same caller may have taken."""
        arguments = (self._state, self._leases, identity, self._ms, *given_up)
        return await self._ask(lambda client: client.eval(_TAKE, 2, *arguments), _PATIENCE, self.ttl / 5)

    async def extend(self, identity: str) -> bool:
        key = self._leases + identity
        votes = await self._ask(lambda client: client.set(key, "", px=self._ms, xx=True), _PATIENCE, self.ttl / 5)
        return self.granted(votes)

    async def free(self, identities: list[str]) -> Votes:
        """End these leases, and wake a waiter."""
        keys = [self._leases + identity for identity in identities]

        async def free(client: Redis) -> int:
            if len(self._clients) > 1:
                return await client.delete(*keys)
            async with client.pipeline(transaction=True) as both:
                both.delete(*keys)
                both.lpush(self._wake, "")
                both.ltrim(self._wake, 0, 0)
                both.pexpire(self._wake, 1000)
                return (await both.execute())[0]

        return await self._ask(free, _FREEING, _FREEING)

    async def woken(self, at_most: float) -> None:
        """Wait until a release wakes us, but for about 0.1 seconds only, and ask no silent server for longer."""
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(min(0.35, at_most)):
                await self._clients[0].blpop([self._wake], timeout=0.1)

    async def _ask(self, question: Question, within: float, soon: float) -> Votes:
        """What the servers say `within` seconds, or, once a majority says yes, within `soon` if that is less."""
        votes: Votes = [None] * len(self._clients)
        asked = asyncio.get_running_loop().time()

        async def vote(voter: int, limit: asyncio.Timeout) -> None:
            votes[voter] = await _answer(self._clients[voter], question)
            if self.granted(votes) and not limit.expired():
                limit.reschedule(asked + min(soon, within))

        with suppress(TimeoutError):
            async with asyncio.timeout(within) as limit, asyncio.TaskGroup() as group:
                for voter in range(len(votes)):
                    group.create_task(vote(voter, limit))
        return votes


class Lease:
    """The right to work until it runs out, is released or is extended."""

    def __init__(self, servers: _Servers, identity: str, token: int, ends: float) -> None:
        self._servers, self._id, self._token, self._ends = servers, identity, token, ends
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
        extended = not self._over and await self._servers.extend(self._id)
        if not extended or self._over or monotonic() >= ends:
            self._over = True
            raise LockLost(f"{self._servers.name}: the lease with token {self._token} is over")
        self._ends = max(self._ends, ends)

    async def release(self) -> bool:
        """Free the lock at once: True if it was still ours on the majority of the servers."""
        self._over = True
        return self._servers.granted(await self._servers.free([self._id]))

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
        servers, deadline = self._servers, monotonic() + max(timeout, 0.0)
        given_up: list[str] = []
        while True:
            identity, began = secrets.token_hex(16), monotonic()
            votes = await servers.take(identity, given_up)
            if servers.granted(votes) and monotonic() < began + servers.ttl:
                return Lease(servers, identity, max(filter(None, votes)), began + servers.ttl)
            if any(vote is None or vote > 0 for vote in votes):
                given_up.append(identity)
                if None not in await servers.free(given_up):
                    given_up.clear()
            left = deadline - monotonic()
            if left <= 0:
                raise LockUnavailable(f"{servers.name}: not within {timeout} s; the servers' last answers: {votes}")
            await self._wait(votes, began, left)

    async def _wait(self, votes: Votes, began: float, at_most: float) -> None:
        """Until another try makes sense, and the commands since `began` are within 50 a second."""
        held = votes[0]
        if len(votes) > 1 or held is None:
            await asyncio.sleep(min(random.uniform(0.05, 0.15), at_most))
            return
        quiet = min(-held / 1000, at_most)
        if quiet > 0.21:  # else an empty answer that is 0.1 s late would come after the expiry
            await self._servers.woken(at_most)
            await asyncio.sleep(began + 0.045 - monotonic())
        else:
            await asyncio.sleep(max(0.025, min(quiet, 0.1)))


async def _answer(client: Redis, question: Question) -> int | None:
    """The server's answer; asked twice if only the connection was dead, for example since a restart."""
    try:
        try:
            return int(await question(client) or 0)
        except RedisConnectionError:
            return int(await question(client) or 0)
    except RedisError:
        return None
