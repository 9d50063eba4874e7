"""A ranking of the last hour that is kept in order while it is written, and told to whoever watches.

    trending = Trending(redis, window=3600, bucket=60)
    await trending.record("hat")
    async with trending.changes() as changes:
        show(await trending.top(10))
        async for change in changes:
            ...

**Promise.** A record counts at once and for `window` seconds, and counts no more `bucket` seconds later, by the
server's clock. The order is the same for everybody: by score, and of equal scores by who has reached it earlier. Each
call is one step on the server: a record happens whole or not at all, and an answer was true at one moment. Scores are
exact up to 2**53. Who has entered `changes` misses no record, or is told so by `ChangesLost`.

**Not promised.** Anything after a fail-over to a replica that lacks the last writes: those records are gone. An exact
window: it is as exact as `bucket`. Changes to a listener that is so slow that the server cuts it off
(`client-output-buffer-limit pubsub`): it gets `ChangesLost`. Changes by expiry: who shows the ranking reads it again
every `bucket` seconds.

**Cost.** One round trip a call, by digest (`EVALSHA`). `record`, `top(n)`, `rank` and `around(k)` take
O(log products + rows) on the server. What leaves is taken out by the call that comes first afterwards: O(log products)
for each product that was recorded in the bucket. So that this is never much at once, the buckets of a sixteenth of the
products each (`slices`) end at another time. Memory: O(products x buckets). A listener costs a connection.

**When something fails**

- A process killed during `record`: counted or not, nothing in between. The client's errors are the caller's; then it is
  unknown whether the record counts, and recording again may count it twice.
- Server restarted without its data: the ranking begins anew. Listeners get `ChangesLost`.
- Eviction (`maxmemory-policy allkeys-…`) may forget a bucket, and its sums stay in the scores: use `noeviction`.
- Server's clock set back: records stay for as much longer. Set ahead: they leave too early.
- Clients that disagree about window or bucket: each record leaves as its writer wanted.

One Redis or Valkey, no cluster: the scripts do not declare their keys. Pub/Sub knows no databases: rankings on one
server need different names, also in different databases.

Sources: Redis, *Sorted sets* and *Pub/Sub* (documentation); Datar, Gionis, Indyk and Motwani, *Maintaining Stream
Statistics over Sliding Windows* (2002), for what buckets cost in exactness.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from faultline.patterns.errors import ChangesLost
from faultline.patterns.leaderboard_changes import Change, Changes, text
from faultline.patterns.leaderboard_scripts import AROUND, RANK, RECORD, TOP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

__all__ = ["Change", "ChangesLost", "Entry", "Trending"]

HEAVIEST = 10**15


@dataclass(frozen=True, slots=True)
class Entry:
    """A product in the ranking; `rank` counts from 1, and no two have the same."""

    sku: str
    score: int
    rank: int


class Trending:
    """The ranking of the last `window` seconds. The client is the caller's: with `decode_responses` or without."""

    def __init__(
        self,
        redis: Redis,
        window: float = 3600,
        bucket: float = 60,
        *,
        name: str = "trending",
        slices: int = 16,
        quiet: float = 15.0,
    ) -> None:
        """Check the arguments; talk to no server yet.

        `window`, `bucket`: seconds, to the millisecond. `name`: what all keys begin with, and the ranking's identity.
        `slices`: in how many portions a bucket leaves. `quiet`: seconds without a change after which a waiting
        listener asks whether its connection still lives. Raises `ValueError` for a `bucket` under 0.01, a `window`
        smaller than a bucket, an empty `name`, `slices` under 1, or a `quiet` that is not above 0.
        """
        if not 0.01 <= bucket <= window:
            raise ValueError(
                f"no window of {window} s in buckets of {bucket} s: a bucket has 0.01 s, a window a bucket"
            )
        if not name:
            raise ValueError("a ranking needs a name: who shares it shares the ranking")
        if slices < 1:
            raise ValueError(f"a bucket leaves in 1 portion or more, not in {slices}")
        if not quiet > 0:
            raise ValueError(f"a listener asks after some quiet, not after {quiet} s")
        self._redis = redis
        self._begin = (name, round(window * 1000), round(bucket * 1000))
        self._channel = f"{name}:changes"
        self._shifts = [round(bucket * 1000 * number / slices) for number in range(slices)]
        self._quiet = quiet

    async def record(self, sku: str, weight: int = 1) -> None:
        """Add `weight` to the product's score, now.

        Raises `ValueError`, and changes nothing, for an empty `sku` or a weight that is no int from 1 to 10**15.
        """
        if not sku:
            raise ValueError("a record needs a product")
        if not isinstance(weight, int) or not 1 <= weight <= HEAVIEST:
            raise ValueError(f"a weight is an int from 1 to 10**15, not {weight!r}")
        slice_ = crc32(sku.encode()) % len(self._shifts)
        await RECORD.run(self._redis, (), *self._begin, sku, weight, slice_, self._shifts[slice_], self._channel)

    async def top(self, n: int) -> list[Entry]:
        """The best `n`, best first; fewer if there are fewer. Raises `ValueError` for an `n` under 1."""
        if n < 1:
            raise ValueError(f"top shows 1 or more, not {n}")
        return _entries(await TOP.run(self._redis, (), *self._begin, n - 1))

    async def rank(self, sku: str) -> int | None:
        """The product's rank, from 1; None if it is not in the ranking."""
        rank = await RANK.run(self._redis, (), *self._begin, sku)
        return None if rank is None else int(rank) + 1

    async def around(self, sku: str, k: int) -> list[Entry]:
        """The product with up to `k` before and up to `k` after it, best first; empty if it is not in the ranking.

        Raises `ValueError` for a `k` under 0.
        """
        if k < 0:
            raise ValueError(f"a product has 0 neighbours or more, not {k}")
        return _entries(await AROUND.run(self._redis, (), *self._begin, sku, k))

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[Changes]:
        """Every record from now on, once, in the server's order: what comes after entering is not missed.

        The iterator never ends by itself. Waiting in it may be cancelled and begun again. It raises `ChangesLost` when
        its connection breaks, and from then on. Leaving the block ends it for whoever waits, and closes its connection.
        Entering raises the client's errors, and `ChangesLost` if the server does not confirm within `quiet` seconds.
        """
        pubsub = self._redis.pubsub()
        changes = Changes(pubsub, self._quiet)
        try:
            await pubsub.subscribe(self._channel)
            if await pubsub.get_message(timeout=self._quiet) is None:  # or records could still go to nobody
                raise ChangesLost(f"{self._channel}: the server has not confirmed for {self._quiet:g} s; enter again")
            yield changes
        finally:
            changes.end()
            await pubsub.aclose()  # type: ignore[no-untyped-call]


def _entries(found: tuple[int, list[Any]]) -> list[Entry]:
    first, rows = found
    return [
        Entry(text(place).partition(":")[2], -int(float(score)), rank)
        for rank, (place, score) in enumerate(zip(rows[::2], rows[1::2], strict=True), first + 1)
    ]
