"""What is trending now: the products of the last hour, kept in order in Redis, and the page that shows them, live.

Every view and every sale is recorded by whichever process it reaches. The home page shows the top 10, a product's page
its rank and its neighbours. What is older than an hour counts no more. Both pages change while somebody looks at them.

Fill in the classes. Use redis-py and the standard library; add what you need around them. The checks use only what
stands here.

The server
    One Redis 7 or Valkey 8, database 0. It holds one ranking: all objects on it have the same `window` and `bucket`.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the caller. It
    does not retry; its errors pass through, except where this says otherwise. Its `socket_timeout` is 0.25 to 5
    seconds. A process has at most 100 calls under way at the same time.
The clock
    The clocks of the processes disagree by minutes. The server's is the one that counts (`TIME`; a script may ask for
    it too). It does not go back. All durations are `float` seconds, given in whole milliseconds.
The window
    Time is cut into buckets. A record counts at once, and for at least `window` seconds; at most `window` + `bucket`
    seconds after it, it counts no more. A product without a record that counts is not in the ranking.
The order
    Best first: by score; of equal scores that one is first which has reached it earlier: whose last `record` came
    earlier to the server. What leaves the window changes scores, and not this. The order is the same for everybody.
One moment
    What `top`, `rank` and `around` answer was true at one moment between call and answer. A `record` happens at one
    moment, wholly or not at all, also if its process is killed meanwhile.
The cost
    However many products there are, `top(n)` brings at most `n` rows from the server, `around` at most `2 * k + 1`, and
    `rank` none; nor do they make the server look at all products, except when records have left since the last call.
The keys
    Every key starts with `trending:`. What is kept grows with the number of products and buckets, not with the number
    of records, but for 32 KiB at most. What is known of a product is gone 2 * (`window` + `bucket`) + 1 seconds
    after its last record, whether or not anybody calls anything meanwhile.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from redis.asyncio import Redis


@dataclass(frozen=True)
class Entry:
    """A product in the ranking."""

    sku: str
    score: int
    """The sum of the weights that count; exact, up to 2**53."""
    rank: int
    """1 for the best. No two have the same."""


@dataclass(frozen=True)
class Change:
    """What a record has made of a product's score."""

    sku: str
    score: int
    """All of it, right after that record: not the difference."""


class ChangesLost(Exception):
    """Changes may have been missed: enter `changes()` again, and read the ranking again."""


class Trending:
    """The ranking of the last `window` seconds."""

    def __init__(self, redis: Redis, window: float = 3600, bucket: float = 60) -> None:
        """Talk to no server yet.

        `window` is a whole multiple of `bucket`. Raises `ValueError` for a `bucket` under 0.01, or a `window` smaller
        than a bucket.
        """
        raise NotImplementedError

    async def record(self, sku: str, weight: int = 1) -> None:
        """Add `weight` to the product's score, now.

        `sku` is any text but the empty one. Raises `ValueError`, and changes nothing, for an empty `sku` or a weight
        that is no `int` from 1 to 10**15.
        """
        raise NotImplementedError

    async def top(self, n: int) -> list[Entry]:
        """The best `n`, best first; fewer if there are fewer. Raises `ValueError` for an `n` under 1."""
        raise NotImplementedError

    async def rank(self, sku: str) -> int | None:
        """The product's rank, from 1; None if it is not in the ranking."""
        raise NotImplementedError

    async def around(self, sku: str, k: int) -> list[Entry]:
        """The product between its neighbours: up to `k` before it and up to `k` after it, best first.

        Fewer at the ends of the ranking; empty if the product is not in it. Raises `ValueError` for a `k` under 0.
        """
        raise NotImplementedError

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Every record from now on, as it happens:

            async with trending.changes() as changes:
                show(await trending.top(10))
                async for change in changes:
                    ...

        Entered, it misses nothing: each record that begins after that comes, once, in the server's order, however late
        it is read. What leaves the window is no change: a page that must show it reads the ranking again every
        `bucket` seconds. Several may be entered at once, each gets all.

        The iterator never ends by itself, however long nothing happens. One task at a time waits in it. Who waits may
        be cancelled (as by `asyncio.wait_for`) and may come again: nothing is lost. If its connection breaks, whoever
        waits or comes next gets either what he would have missed, or `ChangesLost` within a second; after `ChangesLost`
        only that.

        Leaving the block ends it: whoever waits in it then, or comes later, gets `StopAsyncIteration`. No subscription
        and no task stays behind, and no more connections than were in use at the same time, which the client keeps in
        its pool. An exception of the block passes through. Entering, waiting and leaving may be in different tasks.
        """
        raise NotImplementedError
