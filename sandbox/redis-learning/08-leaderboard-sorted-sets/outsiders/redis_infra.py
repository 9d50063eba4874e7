"""redis-infra's AsyncLeaderboard with its Pub/Sub: one sorted set without a window, ties by name, ranks from 0."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

from redis_infra import AsyncLeaderboard, AsyncPublisher, AsyncSubscriber


class ChangesLost(Exception):
    """Nobody raises it."""


class Trending:
    def __init__(self, redis, window=3600, bucket=60):
        del window, bucket
        self.redis, self.board, self.teller = redis, AsyncLeaderboard(redis, "trending"), AsyncPublisher(redis)

    async def record(self, sku, weight=1):
        score = await self.board.increment(sku, weight)
        await self.teller.publish("trending:changes", [sku, score])

    async def top(self, n):
        return entries(await self.board.top(n))

    async def rank(self, sku):
        rank = await self.board.rank(sku)
        return None if rank is None else rank + 1

    async def around(self, sku, k):
        return entries(await self.board.around(sku, k))

    @asynccontextmanager
    async def changes(self):
        subscriber = AsyncSubscriber(self.redis)
        await subscriber.subscribe("trending:changes")
        try:
            yield Heard(subscriber)
        finally:
            await subscriber.close()


class Heard:
    def __init__(self, subscriber):
        self.subscriber, self.heard = subscriber, []

    def __aiter__(self):
        return self

    async def __anext__(self):
        async def keep(_, told):
            self.heard.append(told)

        await self.subscriber.listen(keep, should_stop=lambda: bool(self.heard))
        sku, score = self.heard.pop(0)
        return SimpleNamespace(sku=sku, score=int(score))


def entries(found):
    return [SimpleNamespace(sku=one.member, score=int(one.score), rank=one.rank + 1) for one in found]
