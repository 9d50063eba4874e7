"""Ours: the exercise's contract is the signature of the pattern; what is left to say is where products are kept."""

from faultline.patterns import CacheAside, NotForgotten

__all__ = ["NotForgotten", "ProductCache"]


class ProductCache(CacheAside):
    def __init__(self, redis, load, ttl=300.0):
        super().__init__(redis, load, ttl, prefix="product:")
