"""A distributed lock with fencing tokens: on one Redis, or on the majority of several."""

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

# Taking the key and minting the token are one step: between two steps another holder could fit.
ACQUIRE = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return 0
end
return redis.call('INCR', KEYS[2])
"""
# Looking whose lock it is and acting on it are one step, for the same reason.
RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""
EXTEND = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""


PATIENCE = 0.2  # seconds that one server has for its answer, whatever the client's own limit is


class LockUnavailable(Exception):
    """Not acquired within the timeout: somebody else holds it, or too few servers answer."""


class LockLost(Exception):
    """The lease ran out, was released, belongs to somebody else by now, or too few servers say otherwise."""


class Lease:
    """The right to work until it runs out, is released or is extended; `DistributedLock.acquire` makes it."""

    def __init__(self, lock: "DistributedLock", owner: str, token: int, expires: float) -> None:
        self._lock = lock
        self._owner = owner
        self._token = token
        self._expires = expires  # on the monotonic clock of this process

    @property
    def token(self) -> int:
        """The fencing token."""
        return self._token

    @property
    def valid_for(self) -> float:
        """Seconds for which nobody else can get the lock, never negative."""
        return max(0.0, self._expires - time.monotonic())

    async def extend(self) -> None:
        """Start a new full `ttl` with the same token; raises `LockLost` if the lease is not ours any more."""
        asked = time.monotonic()
        extended = await self._lock.everywhere(EXTEND, self._owner, self._lock.milliseconds)
        if sum(extended) < self._lock.majority:
            self._expires = asked
            raise LockLost(f"lease {self._token} is not ours any more")
        self._expires = asked + self._lock.ttl

    async def release(self) -> bool:
        """Free the lock at once: True if it was still ours, False if not."""
        self._expires = time.monotonic()
        released = await self._lock.everywhere(RELEASE, self._owner)
        return sum(released) >= self._lock.majority

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
        if ttl < 0.001 or not name:
            raise ValueError("a lock needs a name and a ttl of at least 0.001 seconds")
        self.ttl = ttl
        self.milliseconds = int(ttl * 1000)
        self.majority = len(clients) // 2 + 1
        self._clients = clients
        self._keys = [f"{name}:lock", f"{name}:token"]

    async def acquire(self, timeout: float) -> Lease:
        """Wait at most `timeout` seconds for the lock; raises `LockUnavailable`."""
        deadline = time.monotonic() + timeout
        while (lease := await self._try()) is None:
            # At random, so that those who wait for a majority do not split the servers between them for ever.
            pause = random.uniform(0.02, 0.04)
            if time.monotonic() > deadline:
                raise LockUnavailable(f"not acquired within {timeout:g} s")
            await asyncio.sleep(pause)
        return lease

    async def _try(self) -> Lease | None:
        owner = secrets.token_hex()  # of this lease, not of this process: a late release must not match
        asked = time.monotonic()
        tokens = await self.everywhere(ACQUIRE, owner, self.milliseconds)
        granted = [token for token in tokens if token]
        expires = asked + self.ttl
        if len(granted) >= self.majority and time.monotonic() < expires:
            return Lease(self, owner, max(granted), expires)
        if granted or len(tokens) < len(self._clients):
            await self.everywhere(RELEASE, owner)  # also where the answer got lost: the key may be set
        return None

    async def everywhere(self, script: str, *arguments: str | int) -> list[int]:
        """What the servers that answer say to the script; those that do not answer are left out."""

        async def ask(client: Redis) -> list[int]:
            try:
                async with asyncio.timeout(PATIENCE):
                    return [await client.eval(script, len(self._keys), *self._keys, *arguments)]
            except (OSError, RedisError):  # an OSError too: the TimeoutError of asyncio
                return []

        answers = await asyncio.gather(*(ask(client) for client in self._clients))
        return [number for answer in answers for number in answer]
