"""pottery's AIORedlock: the majority of any number of servers, no fencing token; its time is what it says if asked."""

import sys
from contextlib import AbstractAsyncContextManager, suppress

from pottery import AIORedlock, ExtendUnlockedLock, ReleaseUnlockedLock

ExtendUnlockedLock.__name__, LockUnavailable = "LockLost", type("LockUnavailable", (Exception,), {})  # by our names


class Lease(AIORedlock):
    token, valid_for, __aenter__ = 0, 0.0, AbstractAsyncContextManager.__aenter__

    async def extend(self):
        self.valid_for = 0.0
        await super().extend()
        self.valid_for = await self.locked()

    async def release(self):
        self.valid_for = 0.0
        with suppress(ReleaseUnlockedLock):
            return await super().release() is None
        return False

    async def __aexit__(self, *_):
        await self.release()


class DistributedLock:
    def __init__(self, clients, name, ttl):
        self.options = {"masters": clients, "key": name, "auto_release_time": ttl, "num_extensions": sys.maxsize}

    async def acquire(self, timeout):
        lease = Lease(**self.options)
        if await AIORedlock.acquire(lease, blocking=timeout > 0, timeout=timeout or -1):
            lease.valid_for = await lease.locked()
        if not lease.valid_for:
            await lease.release()
            raise LockUnavailable
        return lease
