"""aiocache: `cached_stampede`, which waits for another caller's load for `lease` seconds."""

from aiocache import RedisCache, cached_stampede
from aiocache.serializers import JsonSerializer

NotForgotten = type("NotForgotten", (Exception,), {})  # it raises what the client raises


class ProductCache:
    def __init__(self, redis, load, ttl=300.0):
        at = redis.connection_pool.connection_kwargs
        place = {"endpoint": at["host"], "port": at["port"], "serializer": JsonSerializer()}
        self.cache = RedisCache(**place)

        async def get(product_id):
            return await load(product_id)

        def key(_, product_id):
            return f"product:{product_id}"

        self.get = cached_stampede(lease=2, cache=RedisCache, key_builder=key, ttl=ttl, **place)(get)

    async def forget(self, product_id):
        await self.cache.delete(f"product:{product_id}")
