"""cashews: `cache(lock=True)`, its lock between processes; unknown products are kept as well (`condition`)."""

from cashews import Cache

NotForgotten = type("NotForgotten", (Exception,), {})  # it raises nothing when Redis is not there


class ProductCache:
    def __init__(self, redis, load, ttl=300.0):
        at = redis.connection_pool.connection_kwargs
        self.cache = Cache()
        self.cache.setup(f"redis://{at['host']}:{at['port']}", client_side=False)

        async def get(product_id):
            return await load(product_id)

        self.get = self.cache(ttl=ttl, key="product:{product_id}", lock=True, condition=lambda *_, **__: True)(get)

    async def forget(self, product_id):
        await self.cache.delete(f"product:{product_id}")
