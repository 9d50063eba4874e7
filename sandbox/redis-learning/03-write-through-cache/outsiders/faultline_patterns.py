"""Ours, as it is: the exercise's contract is the signature of the pattern."""

from faultline.patterns.errors import PriceRefused
from faultline.patterns.write_behind import WriteBehind
from faultline.patterns.write_through import WriteThrough

__all__ = ["PriceRefused", "WriteBehind", "WriteThrough"]
