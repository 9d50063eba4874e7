"""The rules of the search: no I/O, no await, no clock.

What is known of a product has parts, and each part the version of the product that it is from. Of two versions of a
part the newer stays, so news may come in any order, late or twice: what is known in the end is the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from faultline.shop.contracts import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What does not change with the price."""

    name: str
    description: str
    brand: str
    category: str
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Described:
    """News: what a product is, as of this version."""

    version: int
    details: Details


@dataclass(frozen=True, slots=True)
class Priced:
    """News: what it costs, as of this version."""

    version: int
    price: Money


@dataclass(frozen=True, slots=True)
class Gone:
    """News: from this version on it is sold no more."""

    version: int


@dataclass(frozen=True, slots=True)
class Counted:
    """News: so many can be bought. It has no version, so whoever brings it must have asked after what it replaces."""

    available: int


News = Described | Priced | Gone | Counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is known of a product; a part that nobody has told of yet is None, at version 0."""

    sku: str
    details: Details | None = None
    details_version: int = 0
    price: Money | None = None
    price_version: int = 0
    gone_version: int = 0
    available: int | None = None

    @property
    def version(self) -> int:
        """The newest that anybody has told of."""
        return max(self.details_version, self.price_version, self.gone_version)

    @property
    def listed(self) -> bool:
        """Whether it is to be found: it is known what it is and what it costs, and it is sold."""
        return self.details is not None and self.price is not None and not self.gone_version


def merged(document: Document, news: Iterable[News]) -> Document:
    """What is known afterwards. What is gone stays so: its sku is never given to another product."""
    for one in news:
        match one:
            case Described(version=version, details=details) if version > document.details_version:
                document = replace(document, details=details, details_version=version)
            case Priced(version=version, price=price) if version > document.price_version:
                document = replace(document, price=price, price_version=version)
            case Gone(version=version) if version > document.gone_version:
                document = replace(document, gone_version=version)
            case Counted(available=available):
                document = replace(document, available=available)
            case _:  # older than what is known
                pass
    return document


def known(document: Document) -> tuple[News, ...]:
    """What would have to be told to somebody who knows nothing, but for its stock."""
    parts: list[News] = []
    if document.details:
        parts.append(Described(document.details_version, document.details))
    if document.price:
        parts.append(Priced(document.price_version, document.price))
    if document.gone_version:
        parts.append(Gone(document.gone_version))
    return tuple(parts)


class Order(StrEnum):
    """In which products come; equals by sku."""

    RELEVANCE = "relevance"
    CHEAPEST = "cheapest"
    DEAREST = "dearest"


@dataclass(frozen=True, slots=True)
class PriceRange:
    """From so many cents to less than so many; None: without an end."""

    low: int
    high: int | None

    @property
    def name(self) -> str:
        """As callers choose it: `2500-5000`, `25000-`."""
        return f"{self.low}-{'' if self.high is None else self.high}"


BOUNDS = (0, 1_000, 2_500, 5_000, 10_000, 25_000)
"""Cents at which ranges begin, so that each price is in one range."""
RANGES = {
    one.name: one for one in (PriceRange(low, high) for low, high in zip(BOUNDS, (*BOUNDS[1:], None), strict=True))
}
FACETS = ("brand", "category", "price")
"""What a shopper may choose several values of: any of these, and one of each that has a choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What somebody looks for."""

    text: str = ""
    chosen: Mapping[str, frozenset[str]]
    """By facet: nothing chosen is all."""
    attributes: Mapping[str, frozenset[str]]
    """By name, any of these values; all names must fit."""
    in_stock: bool = False
    order: Order = Order.RELEVANCE


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of a facet, and how many products there are with it once it is chosen."""

    value: str
    count: int
    chosen: bool


def choices(facet: str, counts: Mapping[str, int], chosen: frozenset[str]) -> tuple[Choice, ...]:
    """The values of a facet as they are shown: the most frequent first, prices in their order.

    What is chosen stays, with 0 if need be: otherwise nobody could take it back.
    """
    names: Sequence[str]
    if facet == "price":
        names = [name for name in RANGES if counts.get(name) or name in chosen]
    else:
        names = sorted(counts.keys() | chosen, key=lambda name: (-counts.get(name, 0), name))
    return tuple(Choice(name, counts.get(name, 0), name in chosen) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What the catalog and inventory say of a product, beside which the index is held."""

    version: int
    price: Money
    available: int


class Difference(StrEnum):
    """How the index is not what the catalog is."""

    MISSING = "missing"
    OLD = "old"
    SURPLUS = "surplus"
    AHEAD = "ahead"
    STOCK = "stock"


def compared(document: Document | None, shelf: Shelf | None) -> Difference | None:
    """How the document differs from what is on the shelf (None: it is sold no more); None if it does not."""
    if shelf is None:
        return Difference.SURPLUS if document and document.listed else None
    if document is None or not document.version:
        return Difference.MISSING
    if document.version > shelf.version:
        return Difference.AHEAD
    if document.version < shelf.version or not document.listed or document.price != shelf.price:
        return Difference.OLD
    return None if (document.available or 0) == shelf.available else Difference.STOCK
