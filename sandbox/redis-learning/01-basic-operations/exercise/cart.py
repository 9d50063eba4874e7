"""A shopping cart in Redis: several tabs, several processes, and no click is lost.

Every click of a customer is one call, handled by whichever process is free. Two tabs, or a phone and a laptop, click
at the same time. A visitor fills a cart before logging in; at the login it is merged into the customer's.

Fill in the class. Use redis-py and the standard library; add what you need around it. The checks use only what
stands here.

The server
    One Redis 7 or Valkey 8. Nothing but carts is in it.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the caller and
    shared by several carts. It does not retry, and neither does the cart: a call whose answer got lost has changed the
    cart once or not at all. What the client raises (a dead server) reaches the caller as it is.
One cart
    An id and an SKU are text that UTF-8 can encode. A cart has 1,000 lines at most; nobody has to look.
One round trip
    No call costs more than one round trip, however many lines the cart has: the client sends, the server answers, and
    nothing is asked again. What a connection says at its beginning does not count, nor does the first call of each
    kind (which may have to bring a script to the server).
The keys
    A cart expires 30 days (2,592,000 seconds) after it was last changed: every key that it has left is gone then, also
    if the process was killed in the middle of the change. An empty cart leaves no key.
"""

from redis.asyncio import Redis


class Cart:
    """The lines of one user's cart: a quantity for each SKU. Any number of objects and processes may share it.

    Calls at the same time count as if one had come after the other.
    """

    def __init__(self, redis: Redis, user_id: str) -> None:
        """Talk to no server yet. `user_id` is any text but the empty one, for which it raises `ValueError`.

        Carts of different users have nothing to do with each other, whatever their ids look like.
        """
        raise NotImplementedError

    async def add(self, sku: str, quantity: int = 1) -> int:
        """Add so many to the line; returns the quantity that it has now.

        Raises `ValueError` and changes nothing if `sku` is the empty text, or if `quantity` is not an `int` from 1
        to 1,000 (`True` is none). An SKU is any other text.
        """
        raise NotImplementedError

    async def remove(self, sku: str, quantity: int | None = None) -> int:
        """Take so many from the line, all of them without `quantity`; returns the quantity that it has now.

        A line from which as much as it has, or more, is taken is gone: 0. So is one that was not there, and then
        nothing has changed. Raises `ValueError` as `add` does.
        """
        raise NotImplementedError

    async def items(self) -> dict[str, int]:
        """All lines: the quantity, 1 or more, of each SKU. Reading is no change: the 30 days go on."""
        raise NotImplementedError

    async def merge_from(self, guest: "Cart") -> None:
        """Add every line of `guest`, a cart on the same server, to this one, and empty it: all of it or nothing.

        No click on either cart gets lost meanwhile, and nothing is added twice, also when two processes merge the
        same cart at the same time or when this process is killed. An empty guest changes nothing. Neither does
        merging a cart with itself, by the same object or another one of the same user.
        """
        raise NotImplementedError
