"""python-redis-lock: one server, calls that block (here in threads), whole seconds, no fencing token."""

from asyncio import get_running_loop, to_thread
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from math import ceil

from redis import Redis
from redis_lock import Lock, NotAcquired

NotAcquired.__name__, LockUnavailable = "LockLost", type("LockUnavailable", (Exception,), {})  # by our names


class Lease(Lock):
    token, __aenter__ = 0, AbstractAsyncContextManager.__aenter__
    valid_for = property(lambda self: self._expire if self._held else 0.0)

    async def extend(self):
        await to_thread(super().extend)

    async def release(self):
        with suppress(NotAcquired):
            return await to_thread(super().release) is None
        return False

    async def __aexit__(self, *_):
        await self.release()


class DistributedLock:
    def __init__(self, clients, name, ttl):
        [at] = [client.connection_pool.connection_kwargs for client in clients]
        self.client, self.name, self.ttl = Redis(host=at["host"], port=at["port"]), name, ceil(ttl)
        get_running_loop().set_default_executor(ThreadPoolExecutor(32))  # a waiter keeps its thread

    async def acquire(self, timeout):
        lease, wait = Lease(self.client, self.name, self.ttl), min(ceil(timeout), self.ttl)  # it refuses to wait longer
        if not await to_thread(Lock.acquire, lease, blocking=wait > 0, timeout=wait or None):
            raise LockUnavailable
        return lease
