"""Ours, as it is: the exercise's contract is the signature of the pattern."""

from faultline.patterns.rate_limiter import Decision, RateLimiter

__all__ = ["Decision", "RateLimiter"]
