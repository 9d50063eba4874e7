"""The rules of carts: no I/O, no await, no clock.

A cart holds quantities, nothing else. What things are called and cost is the catalog's, and only shown here: what is
paid is decided when the order is placed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from faultline.shop.contracts import Money

MOST_LINES, MOST = 100, 1_000
FRESH = 60.0  # seconds for which nobody is asked about a product: its events say what changes meanwhile


class CartFull(Exception):
    """Refused: the cart has as many lines as it may."""


class GuestHasGone(Exception):
    """Refused: this guest has an account by now, and their cart is that one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a product; `age`: seconds since anybody has said so."""

    name: str
    unit: Money
    version: int
    age: float
    retired: bool = False

    @property
    def fresh(self) -> bool:
        """Whether it needs no asking. What is retired stays so."""
        return self.retired or self.age < FRESH


class Absent:
    """The catalog has said that there is no such product."""


Found = Known | Absent | None
"""What is known of a product; None: nothing."""


class Standing(StrEnum):
    """How good a line's price is."""

    CURRENT = "current"
    LAST_KNOWN = "last-known"
    """The catalog does not answer: it was right `age` seconds ago."""
    UNKNOWN = "unknown"
    """The catalog does not answer, and never has for this one."""
    UNSELLABLE = "unsellable"
    """There is no such product, or no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """So many of a product, as it is shown; what is not known is None."""

    sku: str
    quantity: int
    standing: Standing
    name: str | None = None
    unit: Money | None = None
    age: float | None = None

    @property
    def sum(self) -> Money | None:
        """What they cost together."""
        return Money(self.unit.cents * self.quantity, self.unit.currency) if self.unit else None


def newer(known: Found, asked: Found) -> Found:
    """What counts after asking: an answer of the catalog may be older than an event that was heard of it."""
    if asked is None or (isinstance(known, Known) and isinstance(asked, Known) and asked.version < known.version):
        return known
    return asked


def sellable(found: Found) -> bool:
    """Whether it can be bought, as far as is known."""
    return found is None or (isinstance(found, Known) and not found.retired)


def shown(quantities: Mapping[str, int], found: Mapping[str, Found]) -> tuple[Line, ...]:
    """The lines of a cart, by sku."""
    return tuple(_line(sku, quantity, found.get(sku)) for sku, quantity in sorted(quantities.items()))


def _line(sku: str, quantity: int, found: Found) -> Line:
    match found:
        case None:
            return Line(sku=sku, quantity=quantity, standing=Standing.UNKNOWN)
        case Absent():
            return Line(sku=sku, quantity=quantity, standing=Standing.UNSELLABLE)
        case Known(retired=True):
            return Line(sku=sku, quantity=quantity, standing=Standing.UNSELLABLE, name=found.name)
        case Known():
            standing = Standing.CURRENT if found.fresh else Standing.LAST_KNOWN
            return Line(sku=sku, quantity=quantity, standing=standing, name=found.name, unit=found.unit, age=found.age)


def total(lines: tuple[Line, ...]) -> Money | None:
    """What all lines that can be bought cost; None if one's price is unknown, or they are in several currencies."""
    sums = [line.sum for line in lines if line.standing is not Standing.UNSELLABLE]
    known = [each for each in sums if each]
    if len(known) < len(sums) or len({each.currency for each in known}) > 1:
        return None
    return Money(sum(each.cents for each in known), known[0].currency if known else "EUR")
