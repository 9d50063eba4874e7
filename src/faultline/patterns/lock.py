"""A distributed lock whose every lease carries a fencing token: on one Redis, or on the majority of several.

    lock = DistributedLock([client], "flash-sale", ttl=10.0)
    async with await lock.acquire(timeout=2.0) as lease:
        await warehouse.sell(unit, fence=lease.token)

**Promise.** At most one lease of a name is valid at any time, as long as clocks run at the same speed within `drift`
and servers lose nothing that they confirmed. On one server every token is larger than all before it, since the script
that takes the lock also counts; the counter never expires. A lock that is released goes to a waiter at once, that of a
dead holder within a tenth of its `ttl` or 0.05 s. Servers that do not answer make no call longer than 0.5 s. Whoever
gives up, by timeout or by cancellation, gives back first.

**Not promised.** That the holder still runs, or knows that it lost: a process may stand still between any two
instructions, whatever the clock said before the first. What the lock protects must itself refuse the smaller token
(`faultline.patterns.fence`). Nor is there a queue, but for the tasks that wait on one object: elsewhere who has waited
longest is woken first, and a newcomer may be quicker.

**Cost.** One round trip to acquire and one to release, by digest (`EVALSHA`); O(1) time and memory on the server, and
one small key for ever for each name. A waiter blocks on the server (`BLPOP`; one connection for each lock object,
however many tasks wait on it) and sends at most 50 commands a second. Several servers are asked at the same time; their
waiters ask again at random moments, 0.08 s apart on average.

**When something fails**

- Holder killed or paused: the lease expires; when the holder wakes up, its token is too small.
- Waiter killed with the wake-up in its hands: the next one looks for itself within 0.2 s.
- Server killed, append-only file kept: leases and counter are there again. A crash of its machine may cost the last
  second (`appendfsync everysec`) or nothing (`always`).
- Fail-over to an asynchronous replica, or a server that comes back empty: the last leases and tokens may be forgotten.
  Then there may be two holders, and tokens that repeat: let the storage mint the token (`faultline.patterns.fence`).
- Eviction (`maxmemory-policy allkeys-…`) may forget the counter: use `noeviction`.
- Minority of several servers down: nothing, except that a silent one costs up to 0.05 s an operation. One that came
  back empty must stay away for a `ttl`: until then a second holder may find a majority with its help.
- Majority down: `LockUnavailable`; what the rest had granted is taken back.
- A request that arrives after its sender gave up is refused: the release left a note for it, for a minute.
- Machine suspended: `valid_for` counts on (`CLOCK_BOOTTIME`). In a virtual machine that is frozen no clock does.

Sources: Gray and Cheriton, *Leases* (1989); Burrows, *The Chubby lock service* (2006), whose sequencer is the token;
*Distributed Locks with Redis*, the Redlock specification; Kleppmann, *How to do distributed locking* (2016), and
Sanfilippo's answer, *Is Redlock safe?* (2016).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from faultline.patterns.errors import LockLost, LockUnavailable
from faultline.patterns.lease import Lease, Terms
from faultline.patterns.lock_scripts import WAITING_MS
from faultline.patterns.lock_servers import LONGEST, Claim, Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio import Redis

__all__ = ["DistributedLock", "Lease", "LockLost", "LockUnavailable"]

BLOCK = 0.1  # seconds; Redis answers up to 0.1 s late, and the client's socket_timeout may be 0.25 s
OVERTIME = 0.22  # seconds after the timeout for a last answer, and as long again to give back
LISTEN = BLOCK + 0.12  # seconds; less is left of the lease: a blocking command might answer too late
GLANCE = 0.05  # seconds between looks at such a lease
RETRY = (0.04, 0.12)  # seconds, at random, where nobody wakes us
SPLIT = 0.03  # seconds, at random from 0, after several asked at once and nobody got the majority
TRIES_PER_SECOND = 25  # each of two commands
BURST = 5  # tries that may follow each other faster


def machine_time() -> float:
    """Seconds on a clock that no one sets and that also counts while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class DistributedLock:
    """At most one valid lease for a name at any time.

    The clients are the caller's: with `decode_responses` or without; `socket_timeout` 0.25 s or more.
    """

    def __init__(
        self,
        clients: Sequence[Redis],
        name: str,
        ttl: float,
        *,
        drift: float = 0.01,
        clock: Callable[[], float] = machine_time,
        chance: random.Random | None = None,
    ) -> None:
        """Check the arguments; talk to no server yet.

        `clients`: one, or an odd number of independent servers, of which the majority decides. `ttl`: the seconds a
        lease lives, to the millisecond. `drift`: the share of it by which two clocks may disagree about its length; no
        holder counts on that share. Raises `ValueError` for no client, an even number of them, a `ttl` under 0.001, or
        an empty name.
        """
        if len(clients) % 2 == 0:
            raise ValueError(f"a majority needs one client or an odd number of them, not {len(clients)}")
        if not name:
            raise ValueError("a lock needs a name: who shares it shares the lock")
        if not 0.001 <= ttl < math.inf:
            raise ValueError(f"ttl is {ttl} s: a lease lives for 0.001 s or more")
        if not 0 <= drift < 1:
            raise ValueError(f"drift is {drift}: a share of the ttl, from 0 to less than 1")
        milliseconds = round(ttl * 1000)
        self._servers = Servers(clients, name)
        self._terms = Terms(
            name=name, milliseconds=milliseconds, lifetime=milliseconds / 1000 * (1 - drift), clock=clock
        )
        self._clock = clock
        self._chance = chance or random.SystemRandom()  # forked contenders must not move in step
        self._taken_until = -math.inf
        self._turn = asyncio.Lock()  # one task of this object waits at the servers, the others behind it

    async def acquire(self, timeout: float) -> Lease:
        """Wait at most `timeout` seconds for the lock; 0 means one try.

        Never hands out a lease that has no time left: a try that took longer than `ttl` has failed. Raises
        `LockUnavailable` no later than 0.5 seconds after the timeout. What a failed or cancelled try has set on some
        of the servers it takes back from all that answer; on the others it stays until a later try of this object
        reaches them, or until it expires. The same object may be asked again, and by several tasks at once; each lease
        stands for itself.
        """
        claim = Claim()
        deadline = self._clock() + timeout
        try:
            found = await self._try_first(claim, timeout)
            lease = found if isinstance(found, Lease) else await self._wait(claim, found, deadline)
        except BaseException:  # cancelled: nobody else would give it back
            if claim.open:
                await self._servers.give_back(claim, within=LONGEST)
            raise
        if lease is None:
            why = self._servers.describe(claim) or "others held it all the time"
            if claim.open:
                await self._servers.give_back(claim, within=OVERTIME)
            raise LockUnavailable(f"lock {self._terms.name!r}: not acquired within {timeout:g} s; {why}")
        return lease

    async def _try_first(self, claim: Claim, timeout: float) -> Lease | float | None:
        if timeout > 0 and self._turn.locked():
            return 0.0  # others wait: not before it is our turn
        if timeout + OVERTIME >= self._servers.silence:
            return await self._try(claim, waits=timeout > 0)  # the clients themselves give up in time
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout, 0.0) + OVERTIME):
                return await self._try(claim, waits=timeout > 0)
        return None

    async def _wait(self, claim: Claim, free_in: float | None, deadline: float) -> Lease | None:
        if (left := deadline - self._clock()) <= 0:
            return None
        queued = self._turn.locked()
        try:
            async with asyncio.timeout(left):
                await self._turn.acquire()
        except TimeoutError:
            return None
        if queued:
            free_in = self._taken_until - self._clock()  # most likely by the one before us: no need to ask
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - self._clock() + OVERTIME):
                    return await self._try_again(claim, free_in, deadline)
        finally:
            self._turn.release()
        return None

    async def _try_again(self, claim: Claim, free_in: float | None, deadline: float) -> Lease | None:
        began, tries = self._clock(), 1
        while (left := deadline - self._clock()) > 0:
            too_early = began + (tries - BURST) / TRIES_PER_SECOND - self._clock()
            await self._pause(free_in, left, too_early)
            found = await self._try(claim, waits=True)
            if isinstance(found, Lease):
                return found
            free_in = found
            tries += 1
        return None

    async def _pause(self, free_in: float | None, left: float, too_early: float) -> None:
        """Until the lock may be free: its holder wakes us, or the lease ends, or at random where nobody can say."""
        if free_in is not None and free_in > LISTEN and await self._servers.wake(min(BLOCK, left)):
            return
        pause = self._chance.uniform(*RETRY) if free_in is None or free_in > LISTEN else min(free_in, GLANCE)
        await asyncio.sleep(min(left, max(pause, too_early)))

    async def _try(self, claim: Claim, *, waits: bool) -> Lease | float | None:
        """The lease, or the seconds until the lock may be free, or None where nobody can say."""
        sent = self._clock()
        waiting = WAITING_MS if waits and len(self._servers) == 1 else 0
        answers = await self._servers.take(claim, self._terms.milliseconds, waiting)
        if self._servers.agree(answers) and sent + self._terms.lifetime > self._clock():
            self._taken_until = sent + self._terms.lifetime
            token = max([answer for answer in answers if answer is not None])
            return Lease(self._servers, self._terms, claim=claim, token=token, sent=sent)
        if claim.here:
            await self._servers.put_back(claim, within=OVERTIME)
            return self._chance.uniform(0, SPLIT)
        if await self._servers.settle(claim, within=OVERTIME):
            return 0.0  # the holder may have been one of them
        return -answers[0] / 1000 if len(answers) == 1 and answers[0] is not None else None
