"""Ours, as it is: the exercise's contract is the signature of the pattern."""

from faultline.patterns.coherent_cache import CacheUnavailable, CoherentCache

__all__ = ["CacheUnavailable", "CoherentCache"]
