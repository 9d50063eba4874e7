"""dogpile.cache: a region with its lock between processes; it blocks, so each `get` has a thread."""

from asyncio import get_running_loop, run_coroutine_threadsafe
from concurrent.futures import ThreadPoolExecutor

from dogpile.cache import make_region

NotForgotten = type("NotForgotten", (Exception,), {})  # it raises what the client raises


class ProductCache:
    def __init__(self, redis, load, ttl=300.0):
        at = redis.connection_pool.connection_kwargs
        place = {"host": at["host"], "port": at["port"], "distributed_lock": True, "lock_timeout": 3}
        place |= {"thread_local_lock": False, "redis_expiration_time": round(ttl)}
        self.region = make_region().configure("dogpile.cache.redis", expiration_time=ttl, arguments=place)
        self.load, self.threads = load, ThreadPoolExecutor(64)

    async def get(self, product_id):
        loop = get_running_loop()
        loaded = lambda: run_coroutine_threadsafe(self.load(product_id), loop).result()  # noqa: E731
        return await loop.run_in_executor(self.threads, self.region.get_or_create, f"product:{product_id}", loaded)

    async def forget(self, product_id):
        await get_running_loop().run_in_executor(self.threads, self.region.delete, f"product:{product_id}")
