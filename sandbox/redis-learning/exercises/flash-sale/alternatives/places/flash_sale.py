"""Nothing is counted while it is worked on: who may buy follows from the place alone.

Of the first `units` places, and one more for each that was declined, everybody gets a unit who can pay. So a worker
looks for the first of these that has no answer yet, and takes a lease on that place: a key that ends by itself.
"""

import secrets
from urllib.parse import quote

from redis.exceptions import WatchError

FREE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Declined(Exception):
    """The card pays nothing."""


class NotInLine(Exception):
    """The buyer has never joined."""


class FlashSale:
    """One sale, seen from one process."""

    def __init__(self, redis, payment, orders, *, sale, units, price, lease=30.0) -> None:
        for wrong in (not sale, units < 1, price < 1, lease < 0.01):
            if wrong:
                raise ValueError(sale, units, price, lease)
        self.redis, self.payment, self.orders = redis, payment, orders
        self.name, self.units, self.price, self.lease = quote(sale, safe=""), units, price, lease
        self.line = f"{self.name}/line"  # buyers, in the order of their places
        self.place = f"{self.name}/place"  # buyer: place
        self.answer = f"{self.name}/answer"  # place: answer

    async def join(self, buyer: str) -> int:
        """Put this buyer into the line, once: two who do so at the same time look again."""
        if not buyer:
            raise ValueError(buyer)
        async with self.redis.pipeline() as pipe:
            while True:
                await pipe.watch(self.place)
                if place := await pipe.hget(self.place, buyer):
                    return int(place)
                place = await pipe.hlen(self.place) + 1
                pipe.multi()
                pipe.hset(self.place, buyer, place)
                pipe.rpush(self.line, buyer)
                try:
                    await pipe.execute()
                except WatchError:
                    continue
                return place

    async def status(self, buyer: str) -> str:
        """The answers first: a buyer's own can only be among those that count if it is there when they all are."""
        if not buyer:
            raise ValueError(buyer)
        answers = await self.redis.hvals(self.answer)
        place = await self.redis.hget(self.place, buyer)
        if place is None:
            raise NotInLine(buyer)
        if own := await self.redis.hget(self.answer, place):
            return own.decode()
        return "sold out" if answers.count(b"sold") >= self.units else "waiting"

    async def work(self) -> bool:
        """Take up the first that has no answer and no worker."""
        answers = await self.redis.hgetall(self.answer)
        last = self.units + list(answers.values()).count(b"declined")
        for place, buyer in enumerate(await self.redis.lrange(self.line, 0, last - 1), start=1):
            if str(place).encode() in answers:
                continue
            lease, mine = f"{self.name}/lease/{place}", secrets.token_hex()
            if not await self.redis.set(lease, mine, nx=True, px=int(self.lease * 1000)):
                continue
            if not await self.redis.hexists(self.answer, place):  # it may have been settled since we looked
                await self.sell(place, buyer.decode())
                return True
            await self.redis.eval(FREE, 1, lease, mine)
        return False

    async def sell(self, place: int, buyer: str) -> None:
        """Charge, record, remember; a place that has an answer keeps it."""
        purchase = f"{self.name} {place}"
        try:
            receipt = await self.payment.charge(purchase, buyer, self.price)
        except Declined:
            await self.redis.hsetnx(self.answer, place, "declined")
            return
        await self.orders.record(purchase, buyer, receipt)
        await self.redis.hsetnx(self.answer, place, "sold")
