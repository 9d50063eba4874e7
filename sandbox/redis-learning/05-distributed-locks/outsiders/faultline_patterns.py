"""Ours, as it is: the exercise's contract is the signature of the pattern."""

from faultline.patterns.lock import DistributedLock, Lease, LockLost, LockUnavailable

__all__ = ["DistributedLock", "Lease", "LockLost", "LockUnavailable"]
