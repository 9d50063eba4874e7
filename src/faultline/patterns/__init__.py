"""Patterns for services that share things and fail: each a small class over the client that you hand it.

Nothing here opens a connection, reads a setting or starts a task that outlives the call (or the `async with`) that
asked for it. What every error means, and whether a retry is safe, stands in `errors`.
"""

from faultline.patterns.borrowed_hits import BorrowedHits
from faultline.patterns.cache import CacheAside
from faultline.patterns.cache_refresh import Early, Refresh, StaleWhileRevalidate, XFetch
from faultline.patterns.coherent_cache import CoherentCache
from faultline.patterns.errors import (
    CacheUnavailable,
    ChangesLost,
    LeaseUnconfirmed,
    LockLost,
    LockUnavailable,
    NotForgotten,
    PatternError,
    PriceRefused,
)
from faultline.patterns.fence import Fence
from faultline.patterns.flights import Flights
from faultline.patterns.leaderboard import Entry, Trending
from faultline.patterns.leaderboard_changes import Change, Changes
from faultline.patterns.lease import Lease
from faultline.patterns.lock import DistributedLock
from faultline.patterns.rate_limiter import Decision, RateLimiter
from faultline.patterns.sessions import Session, SessionStore
from faultline.patterns.write_behind import Backlog, WriteBehind
from faultline.patterns.write_through import PriceDatabase, WriteThrough

__all__ = [
    "Backlog",
    "BorrowedHits",
    "CacheAside",
    "CacheUnavailable",
    "Change",
    "Changes",
    "ChangesLost",
    "CoherentCache",
    "Decision",
    "DistributedLock",
    "Early",
    "Entry",
    "Fence",
    "Flights",
    "Lease",
    "LeaseUnconfirmed",
    "LockLost",
    "LockUnavailable",
    "NotForgotten",
    "PatternError",
    "PriceDatabase",
    "PriceRefused",
    "RateLimiter",
    "Refresh",
    "Session",
    "SessionStore",
    "StaleWhileRevalidate",
    "Trending",
    "WriteBehind",
    "WriteThrough",
    "XFetch",
]
