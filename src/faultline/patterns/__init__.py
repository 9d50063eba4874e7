"""Patterns for services that share things and fail: each a small class over the client that you hand it.

Nothing here opens a connection, reads a setting or starts a task that outlives the call (or the `async with`) that
asked for it. What every error means, and whether a retry is safe, stands in `errors`.
"""

from faultline.patterns.errors import LeaseUnconfirmed, LockLost, LockUnavailable, PatternError, PriceRefused
from faultline.patterns.fence import Fence
from faultline.patterns.lease import Lease
from faultline.patterns.lock import DistributedLock
from faultline.patterns.write_behind import Backlog, WriteBehind
from faultline.patterns.write_through import PriceDatabase, WriteThrough

__all__ = [
    "Backlog",
    "DistributedLock",
    "Fence",
    "Lease",
    "LeaseUnconfirmed",
    "LockLost",
    "LockUnavailable",
    "PatternError",
    "PriceDatabase",
    "PriceRefused",
    "WriteBehind",
    "WriteThrough",
]
