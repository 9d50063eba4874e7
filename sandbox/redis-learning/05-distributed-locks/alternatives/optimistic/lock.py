"""A distributed lock with fencing tokens, without a script: by transactions, and by looking before each change.

On every server two keys: the owner, which expires, and the counter that the tokens come from.

    take      MULTI  SET owner … NX GET PX ttl  INCR counter  PTTL owner  EXEC
    extend    WATCH owner  GET owner   if it is ours:  MULTI  PEXPIRE owner ttl  EXEC
    release   WATCH owner  GET owner   if it is ours:  MULTI  DEL owner  EXEC

EXEC does nothing if the owner has changed since WATCH. A waiter tries again after a random pause.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

_PATIENCE = 0.18  # with one answer; what is later than 0.15 need not count
_CALL = 0.47  # with all answers together, after the last moment to wait
_TRY = 0.11  # a try has five commands, and a second has room for fifty

type_answer = float | None


class LockUnavailable(Exception):
    """Not acquired within the timeout; nothing is left behind on the servers that answer."""


class LockLost(Exception):
    """The lease is not ours any more, or too few servers say that it is."""


class Lease:
    """The right to work until it runs out, is released or is extended."""

    def __init__(self, lock: "DistributedLock", owner: bytes, token: int, ends: float) -> None:
        self._lock = lock
        self._owner = owner
        self._token = token
        self._ends = ends

    @property
    def token(self) -> int:
        """The fencing token: with one client larger than every one before."""
        return self._token
