"""A flash sale: many buyers, few units, several processes that may die, and no transaction around it all.

Three systems take part, and none of them knows of the others: Redis knows who came when, a payment provider moves the
money, the shop's database keeps the orders. Whoever wants a unit joins a line. Workers in any number of processes take
up the buyers, one after the other: charge, record, remember. A worker may be killed between any two of these, stand
still for longer than it was given, or lose an answer; Redis may be restarted at any moment. And yet

- no more units are sold than there are, and none is left while somebody waits who can pay;
- nobody is charged twice, or charged without an order, or has an order without a charge;
- who came first is served first.

Fill in the class. Use redis-py and the standard library; add what you need around it. The checks use only what stands
here.

The server
    One Redis 7 or Valkey 8 with an append-only file, so that what it has answered survives a crash. Its scripts do not.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the caller and
    shared with others. It does not retry: a server that is gone raises `redis.exceptions.ConnectionError`, also in the
    middle of a call, and then nobody knows whether the command was executed.
The payment provider and the database
    Given to you as objects with one method each, see below. They are outside: no transaction holds them and Redis
    together. Call the methods with positional arguments.
The names
    Sales and buyers are called by any text that is not empty; it may hold spaces, colons, quotes. Sales have nothing to
    do with each other, even if one is called like a part of another.
The clock
    All durations are `float` seconds, money is `int` cents. The processes' wall clocks disagree by minutes.

Cancelling a call is not part of the exercise.
"""

from typing import Literal, Protocol

from redis.asyncio import Redis

Status = Literal["waiting", "sold", "sold out", "declined"]


class Declined(Exception):
    """The provider's word: this card pays nothing, and has paid nothing."""


class NotInLine(Exception):
    """The buyer has never joined."""


class Payment(Protocol):
    """The payment provider, as it is given to you."""

    async def charge(self, key: str, buyer: str, cents: int) -> str:
        """Take the money, once for each `key`, and return the receipt; or raise `Declined`.

        The first answer to a key is the answer to that key for ever: asked again, also by somebody else and also at the
        same time, the provider moves no money and answers the same. It may take as long as it likes. When it raises
        `ConnectionError` or `TimeoutError`, nobody knows whether the money was taken.
        """
        ...


class Orders(Protocol):
    """The orders in the shop's database, as they are given to you."""

    async def record(self, order: str, buyer: str, receipt: str) -> None:
        """Write the order with the id `order`; it is committed when this returns.

        If there is an order of that id, it stays as it is. When it raises `ConnectionError` or `TimeoutError`, nobody
        knows whether the order was written.
        """
        ...


class FlashSale:
    """One sale, seen from one process; any number of objects in any number of processes have the same sale."""

    def __init__(
        self,
        redis: Redis,
        payment: Payment,
        orders: Orders,
        *,
        sale: str,
        units: int,
        price: int,
        lease: float = 30.0,
    ) -> None:
        """Check the arguments; talk to nobody yet.

        `units` are for sale in all, for `price` cents each, one for each buyer. `lease`: the seconds for which a worker
        has a buyer to itself. All objects of a sale are made with the same four. Raises `ValueError` for an empty
        `sale`, for `units` or `price` under 1, and for a `lease` under 0.01.
        """
        raise NotImplementedError

    async def join(self, buyer: str) -> int:
        """Put this buyer into the line, at its end; returns the place, from 1, without gaps.

        Who has joined before keeps the place and is told the same one, however often they ask, at whichever process,
        also at the same time, also when the sale is over. When it raises, ask again: the buyer has joined or has not,
        and is in the line once in the end.

        Raises `ValueError` for an empty name. Errors of Redis reach the caller.
        """
        raise NotImplementedError

    async def status(self, buyer: str) -> Status:
        """Where this buyer stands. All but "waiting" is final and never changes, whoever is asked.

        - "sold": charged once, and the order is recorded. Not earlier, and as soon as the `work` that did it is done.
        - "declined": the card was refused; nothing was charged.
        - "sold out": every unit is sold, and this buyer has none and never will. Not earlier: while a unit is only
          being worked on, its buyer's card may still be declined. And not later.
        - "waiting": none of these yet.

        Raises `NotInLine` for a buyer who has not joined, `ValueError` for an empty name. Errors of Redis reach the
        caller.
        """
        raise NotImplementedError

    async def work(self) -> bool:
        """Take up one buyer, and charge, record and remember: True once they are sold to or declined.

        False if there is nobody to take up right now. It does not wait for anybody to come or to go. To be taken up are

        1. a buyer whom a worker has taken up, and has not settled although the `lease` has run out since: it was
           killed, or stands still, or an answer was lost. The buyer keeps the unit that was meant for them, and a
           charge that was tried is finished, never replaced by another;
        2. the next in the line, if there is a unit that is neither sold nor meant for somebody who is being worked on.
           A unit whose buyer was declined is for the next.

        Until its lease has run out, nobody else takes up a worker's buyer. The lease is counted from taking the buyer
        up, and by a clock that all agree on. Which of the two kinds goes first is up to you. A worker that comes late,
        after somebody else has settled its buyer, changes nothing; one that comes late before that settles the buyer.

        *In turn*: nobody gets a unit while somebody gets none who could pay, and who joined so long before that more
        than a tenth of all who joined lie between the two. One has joined before another if their `join` had returned
        before the other's was called, in whichever process.

        Whatever Redis, `charge` and `record` raise reaches the caller, except `Declined`. The buyer is then to be taken
        up again, at the latest when the lease has run out. It may be called by several tasks at once.
        """
        raise NotImplementedError
