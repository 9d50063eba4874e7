"""A cache for the product page, in Redis: a hot miss costs one load, and the page does not depend on the cache.

Reading a product from the database is expensive: that is `load`. Dozens of processes show the same products, and all
of them ask here first.

Fill in the class. Use redis-py and the standard library; add what you need around it. The checks use only what stands
here.

The server
    One Redis 7 or Valkey 8 for all processes. It may be dead, silent, slow, full or empty at any moment.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the caller. It
    does not retry. A dead server raises `redis.exceptions.ConnectionError` at once; a silent one would raise
    `redis.exceptions.TimeoutError` only after the client's own 5 seconds: keep your own time. A blocking command
    should ask for 0.1 seconds at most, for a server may be 0.1 seconds late with its "nothing came". A process has at
    most 100 calls under way at the same time, for which the pool has connections.
The time that Redis has
    An answer of Redis that takes 0.05 seconds is waited for. A Redis that does not answer costs a `get` no more than
    0.25 seconds, all its waits for Redis together. An error that Redis answers with ("out of memory", for example)
    counts as no answer. Your own process takes part in that time: 50 callers who ask Redis for the same product at the
    same moment, over 50 connections, need more of it than one who asks for all. Once Redis answers again, products are
    remembered again within a second.
The keys
    What is remembered about a product, also that it is unknown, is one Redis string at `product:ID`, in a format of
    yours, with an expiry of Redis's own. Other keys and channels of yours start with `product:ID:`, and the keys
    expire, too. Nothing is remembered in the process. An ID has up to 64 letters, digits and hyphens; nobody passes
    anything else.
Spoilt entries
    At `product:ID` may be anything: half an entry, other bytes, JSON of another shape (last year's products had no
    `price`), another product's entry, a list instead of a string. Whatever you could not have written there is a miss,
    and the load that follows replaces it.
The clock
    All durations are `float` seconds. The clocks of the processes disagree by minutes, and processes stand still.
"""

from collections.abc import Awaitable, Callable
from typing import TypedDict

from redis.asyncio import Redis


class Product(TypedDict):
    """A product as the page shows it: these three fields, and no other."""

    id: str
    name: str
    price: int
    """Cents."""


class NotForgotten(Exception):
    """Redis did not answer `forget`: the old entry may be given until it expires. Forgetting again is safe."""


class ProductCache:
    """What the database knows of products, remembered for a while."""

    def __init__(self, redis: Redis, load: Callable[[str], Awaitable[Product | None]], ttl: float = 300.0) -> None:
        """Talk to no server yet.

        `load(product_id)` reads the database: the product, or None if there is none of that ID. It may take anything
        from nothing to 30 seconds, and may raise anything.

        `ttl`: no product is remembered for longer, and none for less than 80 % of it. Where in this range is drawn
        anew for each entry, from at least a tenth of `ttl`, so that what is loaded together does not expire together.
        That a product is unknown is remembered for 2 to 20 % of `ttl`. Raises `ValueError` for less than 1 second.
        """
        raise NotImplementedError

    async def get(self, product_id: str) -> Product | None:
        """The product, or None if there is none.

        What is remembered costs one round trip to Redis and no load.

        Otherwise **one load for all** who ask for this product meanwhile, in all processes, however long it takes; a
        caller who finds it remembered after all does not load. Loads of other products are not kept waiting. While a
        load runs, each process sends Redis at most 50 commands a second for it, the one that loads and those that wait,
        however many of their callers there are; and these have the product within 0.25 seconds after the load has
        ended. If the process that loads dies or stands still, another one loads, and the others wait for that: all have
        the product, if the new load takes no time, less than 2 seconds later.

        Without Redis each process loads for itself, still once for all its callers. Who waits for another process's
        load notices within 0.5 seconds that Redis is gone, and loads.

        What `load` raises is raised to all who wait for it in this process, and is not remembered. Who waits for it
        in another process loads anew, at once.

        A caller who is cancelled takes nobody along: the load goes on as long as somebody in this process waits for it.
        If nobody does, and it ends, another process's waiters load anew as after a death.

        What a load brings is remembered only if it is still the one: not if the product was forgotten since it began,
        nor if another process has loaded since, because this one stood still for too long. Those who wait for it get
        it all the same.
        """
        raise NotImplementedError

    async def forget(self, product_id: str) -> None:
        """The product has changed: when this returns, nothing is remembered of it.

        Nor will be what a load brings that had begun before, in whatever process. A `get` of this object that begins
        afterwards waits for no load that had begun before; in another process it may (module 04 closes that gap).

        Raises `NotForgotten` within 0.25 seconds if Redis does not answer.
        """
        raise NotImplementedError
