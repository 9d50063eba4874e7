"""The rules of the catalog: no I/O, no await, no clock."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from faultline.shop.contracts import Money, PriceChanged, ProductChanged, ProductCreated, ProductRetired


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Something that is sold; every change has the next version."""

    sku: str
    name: str
    description: str
    brand: str
    category: str
    attributes: dict[str, str]
    price: Money
    version: int = 1


class Order(StrEnum):
    """In which a list of products comes; equal prices by sku."""

    SKU = "sku"
    PRICE = "price"


@dataclass(frozen=True, slots=True)
class Place:
    """The last product of a page: the next page begins behind it, whatever was added or sold out meanwhile."""

    cents: int
    sku: str


class VersionMismatch(Exception):
    """Refused: the product is not any more what the caller has seen."""

    def __init__(self, sku: str, version: int) -> None:
        super().__init__(f"{sku} is at version {version}")
        self.version = version


def created(product: Product) -> ProductCreated:
    """What is said of a new product."""
    return ProductCreated(
        sku=product.sku,
        name=product.name,
        description=product.description,
        brand=product.brand,
        category=product.category,
        attributes=product.attributes,
        price=product.price,
        version=product.version,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All that is said of a product, but what it costs."""

    name: str
    description: str
    brand: str
    category: str
    attributes: dict[str, str]


def described(product: Product, as_: Description, *, seen: int | None) -> tuple[Product, ProductChanged | None]:
    """The product under another description and what is said of that; nothing is, where it has that already.

    `seen`: as in `repriced`. Raises `VersionMismatch`.
    """
    same = replace(
        product,
        name=as_.name,
        description=as_.description,
        brand=as_.brand,
        category=as_.category,
        attributes=as_.attributes,
    )
    if same == product:
        return product, None
    if seen not in {None, product.version}:
        raise VersionMismatch(product.sku, product.version)
    changed = replace(same, version=product.version + 1)
    return changed, ProductChanged(
        sku=changed.sku,
        name=changed.name,
        description=changed.description,
        brand=changed.brand,
        category=changed.category,
        attributes=changed.attributes,
        price=changed.price,
        version=changed.version,
    )


def repriced(product: Product, price: Money, *, seen: int | None, at: datetime) -> tuple[Product, PriceChanged | None]:
    """The product at its new price and what is said of that; nothing is, where it costs that already.

    `seen`: the version on which the change is based; None: whatever it is. Raises `VersionMismatch`, and `ValueError`
    for another currency.
    """
    if price.currency != product.price.currency:
        raise ValueError(f"{product.sku} is sold in {product.price.currency}, not in {price.currency}")
    if price == product.price:  # asked again because the answer was lost, as likely as not
        return product, None
    if seen not in {None, product.version}:
        raise VersionMismatch(product.sku, product.version)
    changed = replace(product, price=price, version=product.version + 1)
    event = PriceChanged(sku=product.sku, old=product.price, new=price, valid_from=at, version=changed.version)
    return changed, event


def retired(product: Product) -> tuple[Product, ProductRetired]:
    """The product at the version after which there is none, and what is said of that."""
    gone = replace(product, version=product.version + 1)
    return gone, ProductRetired(sku=product.sku, version=gone.version)
