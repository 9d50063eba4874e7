"""cashews with its client-side cache: Redis tracks the keys, a copy in the process is dropped when one changes."""

from cashews import Cache
from cashews.backends.memory import Memory


class CacheUnavailable(Exception):
    """Never raised: cashews answers errors of Redis with a miss, or with nothing."""


class CoherentCache:
    def __init__(self, redis, load, ttl, size=1000, patience=0.2):
        if ttl < 0.01 or size < 1 or patience <= 0:
            raise ValueError
        at = redis.connection_pool.connection_kwargs
        self.load, self.ttl, self.cache = load, ttl, Cache()
        address, near = f"redis://{at['host']}:{at['port']}", Memory(size=size)
        self.cache.setup(
            address,
            client_side=True,
            client_side_prefix="cache:",
            local_cache=near,
            socket_timeout=patience,
            protocol=2,
        )

    async def start(self):
        await self.cache.init()

    async def stop(self):
        await self.cache.close()

    async def get(self, key):
        self.named(key)
        value = await self.cache.get(key)
        if value is None:
            value, tags = await self.load(key)
            await self.cache.set(key, value, expire=self.ttl, tags=tags)
        return value

    def named(self, name):
        if not name:
            raise ValueError

    async def invalidate(self, key):
        self.named(key)
        await self.cache.delete(key)

    async def invalidate_tag(self, tag):
        self.named(tag)
        await self.cache.delete_tags(tag)
