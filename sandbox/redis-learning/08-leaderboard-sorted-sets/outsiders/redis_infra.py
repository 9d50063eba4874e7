"""redis-infra's AsyncLeaderboard with its Pub/Sub: one sorted set without a window, ties by name, ranks from 0."""

from asyncio import sleep
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace as Row

from redis_infra import AsyncLeaderboard, AsyncPublisher, AsyncSubscriber


class Trending:
    def __init__(self, redis, window=3600, bucket=60):
        self.redis, self.board, _ = redis, AsyncLeaderboard(redis, "trending"), (window, bucket)

    async def record(self, sku, weight=1):
        await AsyncPublisher(self.redis).publish("trending", [sku, await self.board.increment(sku, weight)])

    async def top(self, n):
        return [Row(sku=of.member, score=int(of.score), rank=of.rank + 1) for of in await self.board.top(n)]

    async def rank(self, sku):
        rank = await self.board.rank(sku)
        return None if rank is None else rank + 1

    async def around(self, sku, k):
        return [Row(sku=of.member, score=int(of.score), rank=of.rank + 1) for of in await self.board.around(sku, k)]

    @asynccontextmanager
    async def changes(self):
        heard = Heard(self.redis)
        await heard.subscribe("trending")
        async with aclosing(Row(aclose=heard.close)):
            yield heard


class Heard(AsyncSubscriber, AsyncIterator):
    async def __anext__(self):
        told = []
        await self.listen(lambda _, change: sleep(0, told.append(change)), should_stop=lambda: bool(told))
        return Row(sku=told[0][0], score=int(told[0][1]))
