"""Passwords: hashed slowly (argon2id), away from the event loop, so many at once and no more.

Each takes 19 MiB and some 20 ms of a processor, the least that OWASP recommends: memory is what an attacker's hardware
lacks, and what many logins at once would take from everybody else here. Two threads do it, some may wait, others are
refused. A login that its caller has given up still occupies its thread until it is done.
"""

from __future__ import annotations

import asyncio
import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from faultline.patterns import Bulkhead

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

AT_ONCE, QUEUE, WAIT = 2, 50, 5.0  # threads, those that may wait, seconds
KIB, ROUNDS, LANES = 19_456, 2, 1
MMAP_THRESHOLD, MIB = -3, 1 << 20  # of mallopt(3)


class Passwords:
    """Hashes and compares. An `async with` ends its threads."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=ROUNDS, memory_cost=KIB, parallelism=LANES)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="password")
        self._room = Bulkhead(AT_ONCE, queue=QUEUE, wait=WAIT)
        self._nobodys = ""

    async def __aenter__(self) -> Self:
        _give_large_blocks_back()
        self._nobodys = await self.hashed("a password that nobody has")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hashed(self, password: str) -> str:
        """What is kept of it. Raises `BulkheadFull` when too many wait."""
        return await self._off_the_loop(lambda: self._hasher.hash(password))

    async def fits(self, password: str, kept: str | None) -> bool:
        """Whether it is what was kept of it; without any it takes as long, and tells nobody that there is none.

        Raises `BulkheadFull` when too many wait.
        """
        return await self._off_the_loop(lambda: self._verified(kept or self._nobodys, password)) and kept is not None

    def _verified(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _off_the_loop(self, work: Callable[[], T]) -> T:
        async with self._room:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _give_large_blocks_back() -> None:
    """Have glibc return each block of 1 MiB or more to the system when it is freed.

    By itself it raises that bound to the largest block that was ever freed, and keeps 19 MiB a thread from then on.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # not every C library has it
        mallopt(MMAP_THRESHOLD, MIB)
