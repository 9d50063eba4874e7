"""Prices that are changed through a cache, and prices that reach the database later; both outlive crashes.

A price is read a thousand times for each time that it changes. `WriteThrough` writes it to the database at once and
keeps a copy in Redis that nobody ever sees outdated. `WriteBehind` puts it into a queue in Redis, which is fast, and
lets somebody else bring it to the database, many in one statement. Prices are `int` cents.

Fill in the two classes. Use redis-py and the standard library; add what you need around them. The checks use only
what stands here.

The database
    `db`, an object with the methods of `Database`, shared by all processes. Prices change only through it. A method
    that raises `PriceRefused` has changed nothing, and never will. After any other exception nothing is known: the
    change may have happened, may still happen, or may never happen. Whatever it raises, your caller gets.
The server
    One Redis 7 or Valkey 8, used by nobody else. It keeps an append-only file: what it has answered survives its
    crash. It may be new and empty when the database is full: on the first day, or after somebody has wiped it while
    nothing was waiting and nobody was writing.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the caller. It
    does not retry. A dead server raises `redis.exceptions.ConnectionError` at once, a silent one
    `redis.exceptions.TimeoutError` after 5 seconds; both are `redis.exceptions.RedisError`. A process has at most 100
    calls under way at the same time.
The processes
    Any number of them make any number of these objects. Each may be killed with -9, or stand still, at any moment. A
    call waits for Redis and for the database, never for another call to end, neither here nor elsewhere. The wall
    clocks of the processes disagree by minutes; the server's clock (`TIME`) is one for all.
The names
    A `product_id` is any `str` that is not empty, also one that looks like a key of yours.

What is refused with `ValueError` is refused before anybody is asked. `WriteThrough` and `WriteBehind` are never used
for the same product. Cancelling a call is not part of the exercise.
"""

from collections.abc import Sequence
from typing import Protocol

from redis.asyncio import Redis


class PriceRefused(Exception):
    """The database has refused a change, for good. The database raises it; keep its name."""


class Database(Protocol):
    """What `db` can do. A version is an `int`, from 1, that only ever grows for a product."""

    async def get_price(self, product_id: str) -> Sequence[int] | None:
        """A pair of cents and version, or None for a product that the database does not know."""
        ...

    async def set_price(self, product_id: str, cents: int) -> int:
        """Store the price and return its version, which is greater by one than that of the price before it."""
        ...

    async def set_prices(self, prices: Sequence[tuple[str, int, int]]) -> None:
        """Store each of these (product_id, cents, version) whose version is greater than the stored one.

        The others are ignored, silently. It is one statement: all of it happens, or nothing. Raises `ValueError` and
        changes nothing if a product is named twice or `prices` is empty, and `TypeError` for what is not str and int.
        """
        ...


class WriteThrough:
    """Prices in the database, with a copy in Redis that is never behind it.

    What `get_price` gives is a price that the database has held at some moment of that very call, whatever died
    meanwhile: other processes, or Redis, at any moment, and back with all that it had answered. The one condition: no
    call of a process stands still for `lease` seconds or longer, and what a `set_price` changes in the database is
    there within `lease` seconds from the beginning of that `set_price`, also if the database has raised. Objects with
    different leases may be used for one product: each write has that of its own object.
    """

    def __init__(self, redis: Redis, db: Database, lease: float = 10.0) -> None:
        """Talk to nobody yet. `lease`: seconds, 0.01 or more; `ValueError` for less."""
        raise NotImplementedError

    async def get_price(self, product_id: str) -> int | None:
        """The price in cents, which may be 0; None for a product that the database does not know.

        Asks `db.get_price` at most once, and not at all where it can do without: once a read or a write has returned
        that was alone with its product, reads ask Redis only, until the next write begins. (Of a product that the
        database does not know, each read may ask it.) After a write whose end nobody knows, since its process died or
        the database raised something else than `PriceRefused`, reads may ask the database for that write's `lease`
        seconds, and not for longer than half a second more, however many writes begin and end meanwhile.

        Without Redis it asks the database; what Redis raises is not raised here. `ValueError` for an empty name.
        """
        raise NotImplementedError

    async def set_price(self, product_id: str, cents: int) -> None:
        """Store the price; when this returns, it is in the database. Calls `db.set_price` at most once.

        Raises `redis.exceptions.RedisError` if Redis does not answer before the database is asked: then nothing has
        changed, and the database was not asked. Trouble with Redis after that is not raised: the price is stored.
        Raises what the database raises, and `ValueError` for an empty name or negative cents.
        """
        raise NotImplementedError


class WriteBehind:
    """Prices in a queue in Redis, on their way to the database.

    A price whose `set_price` has returned reaches the database by flushing, unless a later one of the same product
    takes its place. Later is the one whose `set_price` began after that of the other had returned; of two that overlap
    either may be the later one, and it stays so. Nothing is lost, no price is stored twice, and no product's price ever
    goes back to an earlier one: whoever is killed, however many flush at the same time, and however long nobody does.
    """

    def __init__(self, redis: Redis, db: Database) -> None:
        """Talk to nobody yet."""
        raise NotImplementedError

    async def set_price(self, product_id: str, cents: int) -> None:
        """Queue the price, in one round trip to Redis; the database is not asked.

        One round trip: the client sends, the server answers, and nothing is asked again. What a connection says at its
        beginning does not count, nor does the first call of a process (which may have to bring a script).

        Raises `redis.exceptions.RedisError` if Redis does not answer: the price may be queued or not. `ValueError` for
        an empty name or negative cents.
        """
        raise NotImplementedError

    async def flush(self, max_batch: int) -> int:
        """Bring queued prices to the database by one `db.set_prices` of at most `max_batch` rows.

        Returns how many rows that were. 0 if nothing was waiting, or only what another flush has in hand; then the
        database was not asked. As long as it returns more, there may be more. Prices of one product share a row: 1,000
        prices of 10 products, flushed 100 at a time, after each 100 or all at the end, until it returns 0, cost at most
        20 calls of the database. What is stored leaves nothing behind that grows with the number of writes: at most
        1,000 bytes a product.

        If the database raises, so does this; nothing is lost then, and nothing is stored twice. What a flush had in
        hand when it was killed, stopped, or raised is flushed again by others at the latest half a second after it was
        taken. Raises `redis.exceptions.RedisError` if Redis does not answer. `ValueError` for a `max_batch` under 1.
        """
        raise NotImplementedError
