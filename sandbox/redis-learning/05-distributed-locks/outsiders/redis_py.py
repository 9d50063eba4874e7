"""redis-py's asyncio Lock: one server, no fencing token; of its time it knows only the ttl that it asked for."""

from contextlib import AbstractAsyncContextManager, suppress

from redis.asyncio.lock import Lock
from redis.exceptions import LockError

LockError.__name__, LockUnavailable = "LockLost", type("LockUnavailable", (Exception,), {})  # by our names


class Lease(Lock):
    token, extend, __aenter__ = 0, Lock.reacquire, AbstractAsyncContextManager.__aenter__
    valid_for = property(lambda self: self.timeout if self.local.token else 0.0)

    async def release(self):
        with suppress(LockError):
            return await super().release() is None
        return False


class DistributedLock:
    def __init__(self, clients, name, ttl):
        [self.client], self.name, self.ttl = clients, name, ttl

    async def acquire(self, timeout):
        lease = Lease(self.client, self.name, self.ttl, blocking_timeout=timeout)
        if not await Lock.acquire(lease):
            raise LockUnavailable
        return lease
