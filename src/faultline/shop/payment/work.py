"""Carries out what commands have asked for: takes on what is due, asks the provider, and enters what it says.

    due ─► taken on, for `LEASE` ─► never asked before? ─► charge under its key ─► entered
                │                        no: ask by its key what became of it ─┘   not known: due again
                └─ whoever took it on is gone: due again

Any number of processes may do so. What one has begun and not ended, another resolves; two that are at the same move use
the same key, and the second to enter finds that it is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from faultline.patterns import CircuitOpen, NotTried
from faultline.shop.logs import request_id
from faultline.shop.payment import domain
from faultline.shop.payment.rpc import PLACES

if TYPE_CHECKING:
    from faultline.shop.payment.domain import Moved
    from faultline.shop.payment.rpc import Provider
    from faultline.shop.payment.store import Job, Payments

LEASE = 5.0  # seconds; two calls take two, and two more to wait for a place
LOOK_EVERY = 0.1  # seconds between looks for what is due
PAUSES = (0.1, 5.0)  # seconds before a move of unknown outcome is asked after again, and at most

log = logging.getLogger(__name__)


class Work:
    """The moves that this process is at."""

    def __init__(self, payments: Payments, provider: Provider) -> None:
        self._payments = payments
        self._provider = provider
        self._at: set[asyncio.Task[None]] = set()

    async def run(self) -> NoReturn:
        """Until this is cancelled: what was begun then, the next process resolves."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for job in await self._due():
                    task = tasks.create_task(self._do(job))
                    self._at.add(task)
                    task.add_done_callback(self._at.discard)
                if len(self._at) == PLACES:
                    await asyncio.wait(self._at, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(LOOK_EVERY)

    async def _due(self) -> list[Job]:
        most = 1 if self._provider.is_away else PLACES
        if len(self._at) >= most:
            return []
        try:
            return await self._payments.claim(most - len(self._at), lease=LEASE)
        except (OperationalError, PoolTimeout) as error:
            log.warning("nothing is taken on", extra={"reason": repr(error)})
            return []

    async def _do(self, job: Job) -> None:
        held = request_id.set(job.correlation)
        try:
            await self._resolve(job)
        except Exception as error:  # its lease ends, and it is taken on again: this is what others rely on
            log.warning("not resolved", extra={"order": job.payment.order, "reason": repr(error)})
        finally:
            request_id.reset(held)

    async def _resolve(self, job: Job) -> None:
        order = job.payment.order
        try:
            by = await self._asked(job)
        except (NotTried, ConnectionRefusedError) as error:  # it has not happened by this attempt
            after = error.retry_after if isinstance(error, CircuitOpen) else _pause(job)
            await self._payments.put_back(job, after=after, is_begun=job.was_begun)
        except OSError as error:
            log.warning("unknown", extra={"order": order, "move": job.move, "reason": repr(error)})
            await self._payments.put_back(job, after=_pause(job), is_begun=True)
        else:
            await self._payments.settle(order, job.move, by)

    async def _asked(self, job: Job) -> Moved:
        key = domain.key(job.payment.order, job.move)
        if job.was_begun and (found := await self._provider.find(job.move, key)):
            return found
        return await self._provider.carry_out(job, key)


def _pause(job: Job) -> float:
    first, longest = PAUSES
    return min(first * 2.0 ** min(job.claim, 10), longest)
