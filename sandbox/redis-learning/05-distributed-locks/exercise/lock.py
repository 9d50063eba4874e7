"""A distributed lock with fencing tokens: on one Redis, or on the majority of several.

The flash sale has 50 units and many tills. A till may sell only while it holds the lock, and whatever it
writes carries the lease's token, so that the warehouse can refuse a till that comes too late.

Fill in the two classes. Use redis-py and the standard library; add what you need around them. The checks
use only what stands here.

The servers
    Redis 7 or Valkey 8. Each keeps an append-only file, so what it has answered survives a crash.
The clients
    Each is a `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the
    caller and shared with other locks. It does not retry. A dead server raises `redis.exceptions.ConnectionError`
    at once. A silent one raises `redis.exceptions.TimeoutError` after the client's `socket_timeout`, which may be
    0.25 seconds or 5: keep your own time. A blocking command should ask for 0.1 seconds at most, for a server may
    be 0.1 seconds late with its "nothing came".
The time a server has
    On an open connection an answer that takes up to 0.15 seconds counts, also with a timeout of 0. Servers that do
    not answer make no call longer than 0.5 seconds. Several servers are asked at the same time: slow ones do not add
    up. Other errors of a server may count as no answer or be raised, as you like.
The keys
    Every key (and channel) starts with the lock's `name`. Any number of processes make locks of the same name.
    Locks of different names have nothing to do with each other, even if one is called like a key of the other.
The clock
    All durations are `float` seconds. Processes pause, and their wall clocks disagree by minutes: measure with a
    monotonic clock, and compare no clock of one process with that of another.

Cancelling a call is not part of the exercise.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from redis.asyncio import Redis


class LockUnavailable(Exception):
    """Not acquired within the timeout: somebody else holds it, or too few servers answer.

    Nothing is left behind on the servers that answer, also where the answer to the try itself got lost.
    """


class LockLost(Exception):
    """The lease ran out, was released, belongs to somebody else by now, or too few servers say otherwise."""


class Lease:
    """The right to work until it runs out, is released or is extended; `DistributedLock.acquire` makes it.

    As an async context manager it gives itself, releases at the end of the block, whatever happens in it, and
    neither hides the block's exception nor raises one of its own when the lease had run out before.
    """

    @property
    def token(self) -> int:
        """The fencing token.

        With one client: larger than every token handed out for this name before, after a release as after an
        expiry, and after the server was killed and restarted, however long nobody asked. With several clients it
        is only an int: independent servers agree on no order.
        """
        raise NotImplementedError

    @property
    def valid_for(self) -> float:
        """Seconds for which nobody else can get the lock, never negative.

        Counted down from `ttl`, from the moment before the request left this process: what acquiring or extending
        took is gone already. Up to 2 % of the ttl may be taken off for clocks that run unequally. 0.0 once
        released, or once `extend` has raised `LockLost`.
        """
        raise NotImplementedError

    async def extend(self) -> None:
        """Start a new full `ttl` with the same token, if the lease is still ours on the majority of the servers.

        Raises `LockLost` otherwise, also when too few servers answer, and changes nothing that belongs to another
        holder. What was free in between is lost, even if it is free again.
        """
        raise NotImplementedError

    async def release(self) -> bool:
        """Free the lock at once: True if it was still ours on the majority of the servers.

        False if not, or if too few servers answer; raises nothing for those. Never frees what another holder has
        got meanwhile, nor another lease of this process or of this very lock object.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        raise NotImplementedError


class DistributedLock:
    """At most one valid lease for a name at any time."""

    def __init__(self, clients: Sequence[Redis], name: str, ttl: float) -> None:
        """Check the arguments; talk to no server yet.

        `clients`: one, or an odd number of independent servers, of which the majority decides. `ttl`: the seconds
        a lease lives, exact to about a millisecond. Raises `ValueError` for no client, an even number of them, a
        `ttl` under 0.001, or an empty name.
        """
        raise NotImplementedError

    async def acquire(self, timeout: float) -> Lease:
        """Wait at most `timeout` seconds for the lock; 0 means one try. Which waiter is next is up to you.

        Never hands out a lease that has no time left: a try that took longer than `ttl` has failed. While it waits
        it sends each server at most 50 commands a second on average (those within a script do not count). And yet,
        on one idle server, a waiter has a lock within 0.25 seconds after its release, and within 10 % of the
        holder's ttl (or 0.05 seconds, if that is more) after the lease of a dead holder, whatever became of other
        waiters.

        With several servers, contenders may split the votes so that nobody has the majority. They settle it between
        them: three that each reach a server of their own 20 milliseconds before the others, and hold the lock for
        some milliseconds, have three turns each within 8 seconds.

        Raises `LockUnavailable` no later than 0.5 seconds after the timeout. What a failed try has set it takes
        back from all servers that answer, so that nobody waits for it to expire. The same object may be asked
        again, and by several tasks at once; each lease stands for itself.
        """
        raise NotImplementedError
