"""A distributed lock with fencing tokens: on one Redis, or on the majority of several.

The flash sale has 50 units and many tills. A till may sell only while it holds the lock, and whatever it
writes carries the lease's token, so that the warehouse can refuse a till that comes too late.

Fill in the two classes. Use redis-py and the standard library; add what you need around them. The checks
use only what stands here.

The clients
    Each is a `redis.asyncio.Redis` with `decode_responses=False`, made and closed by the caller and shared with
    other locks. It does not retry. A dead server raises `redis.exceptions.ConnectionError` at once; a silent one
    raises `redis.exceptions.TimeoutError` after the client's `socket_timeout`, 0.25 seconds or more, so a blocking
    command must ask for less than that.
The keys
    Every key starts with the lock's `name`. Any number of processes make locks of the same name; locks of
    different names have nothing to do with each other.
The time
    All durations are `float` seconds. Processes pause, and their wall clocks disagree by minutes: measure with a
    monotonic clock, and compare no clock of one process with that of another.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from redis.asyncio import Redis


class LockUnavailable(Exception):
    """Not acquired within the timeout: somebody else holds it, or too few servers answer. Nothing is left behind."""


class LockLost(Exception):
    """The lease ran out, was released, or belongs to somebody else by now: stop working on it."""


class Lease:
    """The right to work until it runs out, is released or is extended; `DistributedLock.acquire` makes it.

    As an async context manager it releases at the end of the block, whatever happens in it, and raises nothing of
    its own when the lease had run out before.
    """

    @property
    def token(self) -> int:
        """The fencing token.

        With one client: larger than every token handed out for this name before, after a release as after an
        expiry, and after the server was killed and restarted (it keeps an append-only file), however long nobody
        asked. With several clients it is only an int: independent servers agree on no order.
        """
        raise NotImplementedError

    @property
    def valid_for(self) -> float:
        """Seconds for which nobody else can get the lock, never negative.

        Counted down from `ttl`, from the moment before the request left this process: what acquiring or extending
        took is gone already. 0.0 once released or known to be lost.
        """
        raise NotImplementedError

    async def extend(self) -> None:
        """Start a new full `ttl` with the same token, if the lease is still ours on the majority of the servers.

        Raises `LockLost` otherwise, and changes nothing that belongs to another holder.
        """
        raise NotImplementedError

    async def release(self) -> bool:
        """Free the lock at once: True if it was still ours (on the majority of the servers), False if not.

        Never frees what another holder has got meanwhile. Raises nothing for servers that do not answer.
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
        a lease lives, to the millisecond. Raises `ValueError` for no client, an even number of them, a `ttl` under
        0.001, or an empty name.
        """
        raise NotImplementedError

    async def acquire(self, timeout: float) -> Lease:
        """Wait at most `timeout` seconds for the lock; 0 means one try.

        Never hands out a lease that has no time left: a try that took longer than `ttl` has failed. Between
        tries a waiter sends at most 50 commands a second to a server, yet gets a lock that was released within
        0.25 seconds, and one whose holder died within 10 % after the `ttl` (on one idle server).

        Raises `LockUnavailable` no later than 0.5 seconds after the timeout. What a failed try has set on some of
        the servers it takes back from all that answer, so that nobody waits for it to expire. The same object may
        be asked again, and by several tasks at once; each lease stands for itself.
        """
        raise NotImplementedError
