"""cashews with its client-side cache: Redis tracks the keys, a copy in the process is dropped when one changes."""

from cashews import Cache
from cashews.backends.memory import Memory

CacheUnavailable = type("CacheUnavailable", (Exception,), {})  # never raised: it swallows errors of Redis


class CoherentCache:
    def __init__(self, redis, load, ttl, size=1000, patience=0.2):
        named(ttl >= 0.01 and size >= 1 and patience > 0)
        at = redis.connection_pool.connection_kwargs
        options = {"client_side": True, "client_side_prefix": "cache:", "local_cache": Memory(size=size)}
        self.load, self.ttl, self.cache = load, ttl, Cache()
        self.start, self.stop = self.cache.init, self.cache.close
        self.cache.setup(f"redis://{at['host']}:{at['port']}", socket_timeout=patience, protocol=2, **options)

    async def get(self, key):
        value = await self.cache.get(named(key))
        if value is None:
            value, tags = await self.load(key)
            await self.cache.set(key, value, expire=self.ttl, tags=tags)
        return value

    async def invalidate(self, key):
        await self.cache.delete(named(key))

    async def invalidate_tag(self, tag):
        await self.cache.delete_tags(named(tag))


def named(name):
    if not name:
        raise ValueError
    return name
