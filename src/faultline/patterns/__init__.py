"""Patterns for services that share things and fail: each a small class over the client that you hand it.

Nothing here opens a connection, reads a setting or starts a task that outlives the call (or the `async with`) that
asked for it. What every error means, and whether a retry is safe, stands in `errors`.
"""

from faultline.patterns.errors import ChangesLost, LeaseUnconfirmed, LockLost, LockUnavailable, PatternError
from faultline.patterns.fence import Fence
from faultline.patterns.leaderboard import Entry, Trending
from faultline.patterns.leaderboard_changes import Change, Changes
from faultline.patterns.lease import Lease
from faultline.patterns.lock import DistributedLock

__all__ = [
    "Change",
    "Changes",
    "ChangesLost",
    "DistributedLock",
    "Entry",
    "Fence",
    "Lease",
    "LeaseUnconfirmed",
    "LockLost",
    "LockUnavailable",
    "PatternError",
    "Trending",
]
