"""Products to look at, and their stock: invented, believable, and the same on every machine.

    python -m faultline.shop.seed --products 1000
    python -m faultline.shop.seed --products 1000 --admin ada@shop.example

Product number n, and how many there are of it, depends on n alone: the first 1,000 of 100,000 are those of 1,000, and
seeding again adds what is missing. It all comes in by the services' own stores, with its events. The first
administrator is made here, of an account that is there: who could do it over HTTP would have to be one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import aiohttp

from faultline.patterns import Outbox
from faultline.shop import catalog, database, inventory, users
from faultline.shop.catalog.domain import Product
from faultline.shop.catalog.store import Products
from faultline.shop.contracts import Line, Money, Role
from faultline.shop.errors import BadSettings, ShopError
from faultline.shop.inventory.store import Stock
from faultline.shop.search.cluster import Cluster, Unreachable
from faultline.shop.search.store import Store, Stores
from faultline.shop.settings import SEARCH_INDEX
from faultline.shop.users.store import Accounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from psycopg_pool import AsyncConnectionPool

AT_ONCE = 500  # products in one transaction

BRANDS = ("Aldmoor", "Birkvann", "Corvane", "Dunlin", "Estrella", "Fenwick", "Grauwald", "Halvorsen", "Isolde", "Juno")
COLOURS = ("black", "white", "navy", "olive", "rust", "sand", "slate", "teal")
MAKES = ("Everyday", "Field", "Harbour", "Heritage", "Light", "Night", "Original", "Travel", "Winter", "Workshop")


@dataclass(frozen=True, slots=True)
class Kind:
    """What products of one category have in common; `cents` is what they cost from and to."""

    category: str
    noun: str
    cents: tuple[int, int]
    attribute: str
    values: Sequence[str]
    use: str


TOWNS = (
    ("Berlin", 52.5200, 13.4050),
    ("Copenhagen", 55.6761, 12.5683),
    ("Dublin", 53.3498, -6.2603),
    ("Helsinki", 60.1699, 24.9384),
    ("Lisbon", 38.7223, -9.1393),
    ("Longyearbyen", 78.2232, 15.6267),
    ("Madrid", 40.4168, -3.7038),
    ("Paris", 48.8566, 2.3522),
    ("Rome", 41.9028, 12.4964),
    ("Suva", -18.1416, 178.4419),
    ("Vienna", 48.2082, 16.3738),
    ("Warsaw", 52.2297, 21.0122),
)
"""Where there is a store: its latitude and longitude."""


def stores() -> tuple[Store, ...]:
    """All there are; they have no stock of their own."""
    return tuple(
        Store(id=town.lower(), name=f"Faultline {town}", city=town, latitude=latitude, longitude=longitude)
        for town, latitude, longitude in TOWNS
    )


KINDS = (
    Kind("hats", "Hat", (1_500, 6_000), "size", ("S", "M", "L", "XL"), "keeps its shape in a pocket"),
    Kind("shoes", "Shoe", (4_900, 18_900), "size", tuple(map(str, range(36, 47))), "can be resoled"),
    Kind("bags", "Bag", (2_900, 24_900), "volume", ("8 l", "14 l", "22 l", "35 l"), "stands by itself"),
    Kind("mugs", "Mug", (700, 2_900), "volume", ("0.25 l", "0.33 l", "0.5 l"), "survives the dishwasher"),
    Kind("lamps", "Lamp", (2_400, 32_000), "light", ("2,200 K", "2,700 K", "4,000 K"), "dims without a hum"),
    Kind("chairs", "Chair", (5_900, 89_000), "wood", ("ash", "beech", "oak", "walnut"), "stacks four high"),
    Kind("knives", "Knife", (1_900, 21_000), "blade", ("9 cm", "15 cm", "20 cm"), "takes an edge quickly"),
    Kind("notebooks", "Notebook", (400, 2_400), "paper", ("blank", "dotted", "lined", "squared"), "lies flat open"),
    Kind("blankets", "Blanket", (3_500, 19_900), "material", ("cotton", "linen", "merino"), "does not scratch"),
    Kind("radios", "Radio", (3_900, 27_900), "power", ("mains", "battery", "both"), "finds stations that others miss"),
)


def product(number: int) -> Product:
    """The product of that number, from 1."""
    chance = Random(f"product {number}")
    line = chance.choice(KINDS)
    brand, make, colour, value = (chance.choice(words) for words in (BRANDS, MAKES, COLOURS, line.values))
    low, high = line.cents
    cents = round(low * (high / low) ** chance.random(), -2) - 1  # as many at 10 to 20 as at 20 to 40; 19.99, not 20
    return Product(
        sku=f"{line.noun.lower()}-{number}",
        name=f"{make} {line.noun}",
        description=f"{brand}'s {make.lower()} {line.noun.lower()} in {colour}, {value}: it {line.use}.",
        brand=brand,
        category=line.category,
        attributes={"colour": colour, line.attribute: value},
        price=Money(int(cents)),
    )


def units(number: int) -> int:
    """How many there are of the product of that number: mostly dozens, of a few just one."""
    return int(1.05 ** Random(f"stock {number}").uniform(0, 120))


async def seed(environment: Mapping[str, str], *, products: int) -> int:
    """See that there are so many; how many are new. Raises `BadSettings` if it is not said where."""
    server = _server(environment)
    async with _opened(server, catalog) as products_pool, _opened(server, inventory) as stock_pool:
        store, stock, added = Products(products_pool, Outbox()), Stock(stock_pool, Outbox(), changed=lambda: None), 0
        await store.prepare()
        await stock.prepare()
        for first in range(1, products + 1, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, products + 1))
            added += len(await store.add([product(number) for number in numbers], at=datetime.now(UTC)))
            await stock.receive([Line(product(number).sku, units(number)) for number in numbers], "seed")
    return added


async def place_stores(environment: Mapping[str, str]) -> None:
    """See that the search knows of all stores; a shop without it has none. Raises `Unreachable`."""
    if url := environment.get("SHOP_OPENSEARCH_URL"):
        async with aiohttp.ClientSession() as session:
            index = environment.get("SHOP_SEARCH_INDEX", SEARCH_INDEX)
            await Stores(Cluster(session, url), index).put(stores())


async def appoint(environment: Mapping[str, str], email: str) -> bool:
    """Make the account with this address an administrator; False if there is none. Raises `BadSettings`."""
    async with _opened(_server(environment), users) as pool:
        accounts = Accounts(pool, Outbox())
        found = await accounts.password(email.lower())
        return found is not None and await accounts.promote(found[0], Role.ADMIN) is not None


def _server(environment: Mapping[str, str]) -> str:
    if not (server := environment.get("SHOP_POSTGRES_URL")):
        raise BadSettings("seeding needs SHOP_POSTGRES_URL; `./lab shop seed` sets it, for the shop that runs")
    return server


def _opened(server: str, service: ModuleType) -> AbstractAsyncContextManager[AsyncConnectionPool]:
    name = service.__name__.rpartition(".")[2]
    return database.opened(server, name, Path(service.__path__[0]) / "migrations", most=1)


def main(arguments: Sequence[str]) -> int:
    """Seed, and say what is new; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m faultline.shop.seed")
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--admin", default="")
    asked = parser.parse_args(arguments)
    wanted, email = int(asked.products), str(asked.admin)
    try:
        added = asyncio.run(seed(os.environ, products=wanted))
        asyncio.run(place_stores(os.environ))
        if email and not asyncio.run(appoint(os.environ, email)):
            print(f"seed: nobody has registered as {email}", file=sys.stderr)
            return 2
    except (ShopError, Unreachable) as error:
        print(f"seed: {error}", file=sys.stderr)
        return 2
    print(f"{added} products are new, {wanted - added} were there.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
