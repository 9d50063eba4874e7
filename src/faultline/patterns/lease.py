"""The right to work for a while, and what keeps it."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from faultline.patterns.errors import LeaseUnconfirmed, LockLost
from faultline.patterns.lock_servers import LONGEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from faultline.patterns.lock_servers import Answers, Claim, Servers


RELEASING = 0.22  # seconds for servers that do not answer; as long again for what they were owed before


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all leases of one lock have in common."""

    name: str
    milliseconds: int
    """The ttl, as the servers count it."""
    lifetime: float
    """Seconds that the holder may count on: less, because no two clocks run at the same speed."""
    clock: Callable[[], float]


class Lease:
    """The right to work until it runs out, is released or is extended; `DistributedLock.acquire` makes it.

    As an async context manager it releases at the end of the block, whatever happens in it, and raises nothing of its
    own when the lease had run out before. It does not stop the block when it runs out; `kept` does.
    """

    __slots__ = ("_claim", "_released", "_servers", "_terms", "_token", "_until")

    def __init__(self, servers: Servers, terms: Terms, *, claim: Claim, token: int, sent: float) -> None:
        self._servers = servers
        self._terms = terms
        self._claim = claim
        self._token = token
        self._until = sent + terms.lifetime
        self._released = False

    @property
    def token(self) -> int:
        """The fencing token: larger than every one before it for this name, from one server.

        It stays so after a release, an expiry and a restart of the server that keeps an append-only file. From several
        servers it is only an int: they agree on no order.
        """
        return self._token

    @property
    def valid_for(self) -> float:
        """Seconds for which nobody else can get the lock, never negative.

        Counted down from `ttl` less the drift, from the moment before the request left this process: what acquiring or
        extending took is gone already. 0.0 once released, or once `extend` has raised `LockLost`.
        """
        return max(0.0, self._until - self._terms.clock())

    async def extend(self) -> None:
        """Start a new full `ttl` with the same token, if the lease is still ours on the majority of the servers.

        Raises `LockLost` otherwise, and changes nothing that belongs to another holder. It is `LeaseUnconfirmed` when
        too few servers answered within 0.5 s to tell.
        """
        answers = await self._extend()
        if self._released:  # also while it was being extended
            raise LockLost(f"{self}: it was released; acquire again")
        if self._servers.agree(answers) and self.valid_for:
            return
        self._until = -math.inf
        if self._servers.refuse(answers):
            raise LockLost(f"{self}: it ran out or somebody else has it; stop, and acquire again")
        raise LeaseUnconfirmed(
            f"{self}: {sum(answer is not None for answer in answers)} of {len(answers)} servers said in time whether "
            f"it was extended; stop, and extend again or acquire; {self._servers.describe(self._claim)}"
        )

    async def _extend(self) -> Answers:
        sent = self._terms.clock()
        answers = await self._servers.extend(self._claim, self._terms.milliseconds)
        if self._servers.agree(answers) and not self._released:
            self._until = max(self._until, sent + self._terms.lifetime)
        return answers

    async def release(self) -> bool:
        """Free the lock at once: True if it was still ours (on the majority of the servers), False if not.

        Never frees what another holder has got meanwhile. Raises nothing for servers that do not answer, and waits at
        most 0.5 s for them: what they hold expires, unless the lock reaches them earlier. Released again, it is False.
        """
        self._released = True
        self._until = -math.inf
        try:
            return self._servers.agree(await self._servers.give_back(self._claim, within=RELEASING))
        except asyncio.CancelledError:
            if self._claim.open:  # the request may not have left
                await self._servers.give_back(self._claim, within=LONGEST)
            raise

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[Self]:
        """Extend the lease every third of its `ttl` while the block runs; if it is lost, cancel the block: `LockLost`.

            async with await lock.acquire(timeout=2) as lease, lease.kept():
                await sell()

        The block is cancelled at the latest when `valid_for` reaches 0, also while a server keeps an extension waiting.
        It cannot stop a block that does not await, nor a process that is paused: that is what the token is for.
        """
        if not self.valid_for:
            raise LockLost(f"{self}: it was over before its block began; acquire again")
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self.valid_for) as limit, asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep(limit))
                try:
                    yield self
                except Exception as error:  # the group would wrap it: carried around it, and raised as it was
                    failure = error
                finally:
                    keeper.cancel()
        except TimeoutError as error:
            self._until = -math.inf
            raise LockLost(f"{self}: lost before its block ended, which was cancelled") from error
        if failure is not None:
            raise failure

    async def _keep(self, limit: asyncio.Timeout) -> None:
        loop, third = asyncio.get_running_loop(), self._terms.milliseconds / 3000
        pause = self.valid_for - 2 * third
        while True:
            await asyncio.sleep(pause)
            answers = await self._extend()
            if self._servers.refuse(answers):
                self._until = -math.inf
            if limit.expired():
                return
            limit.reschedule(loop.time() + self.valid_for)
            pause = max(self.valid_for - 2 * third, third / 3)  # soon again, if too few have answered

    def __repr__(self) -> str:
        return f"lease {self._token} of lock {self._terms.name!r}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.release()
