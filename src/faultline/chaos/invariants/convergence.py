"""I9: what is derived has become what it is derived from: the search's index, its facets, and the catalog's cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from faultline.chaos.finding import Invariant, Violated

if TYPE_CHECKING:
    from faultline.chaos.books import Books
    from faultline.chaos.finding import Findings

PRODUCTS = "SELECT sku, version, price_cents, brand, category FROM product WHERE retired_at IS NULL"
STOCK = """
SELECT sku, sum(CASE kind WHEN 'committed' THEN 0 WHEN 'reserved' THEN -quantity ELSE quantity END)::bigint
FROM movement GROUP BY sku
"""
NEXT_PRICES = """
SELECT sku, version, extract(epoch FROM now() - valid_from)::float8 FROM price WHERE sku = ANY (%s) AND version > 1
"""
RETIRED = """
SELECT sku, version - 1, extract(epoch FROM now() - retired_at)::float8 FROM product
WHERE sku = ANY (%s) AND retired_at IS NOT NULL
"""
LISTED: dict[str, Any] = {"term": {"listed": True}}
FACETS = ("brand", "category")
MOST = 10_000  # values of a facet
CACHE = "catalog:product:1:"
HEAD = 11  # bytes before the payload of a cache's entry
REMEMBERED, BOUND = 300.0, 30.0
"""Seconds for which the catalog may keep an entry, and that a healed shop has to come to rest."""


async def check(books: Books) -> Findings:
    """Each product beside its document, the counts of each facet, each entry of the cache beside what replaced it."""
    async with books.of("catalog") as catalog:
        rows = {sku: tuple(row) for sku, *row in await catalog.rows(PRODUCTS)}
    async with books.of("inventory") as inventory:
        stock: dict[str, int] = dict(await inventory.rows(STOCK))
    async for finding in _index(books, rows, stock):
        yield finding
    async for finding in _facets(books, rows):
        yield finding
    async for finding in _cache(books):
        yield finding


async def _index(books: Books, rows: dict[str, tuple[Any, ...]], stock: dict[str, int]) -> Findings:
    left = dict(rows)
    async for one in books.found(LISTED, by="sku"):
        sku = one["sku"]
        if (row := left.pop(sku, None)) is None:
            yield Violated(f"{sku} is found by the search, and the catalog does not sell it")
        elif (found := (one["version"], one["cents"], one["brand"], one["category"])) != row:
            yield Violated(f"{sku}: version, cents, brand, category are {row} in the catalog, {found} in the index")
        elif (one["available"] or 0) != stock.get(sku, 0):
            yield Violated(f"{sku}: {stock.get(sku, 0)} can be bought, {one['available'] or 0} say so in the index")
    for sku in left:
        yield Violated(f"{sku} is sold by the catalog, and not found by the search")


async def _facets(books: Books, rows: dict[str, tuple[Any, ...]]) -> Findings:
    aggregations = {facet: {"terms": {"field": facet, "size": MOST}} for facet in FACETS}
    answer = await books.search({"size": 0, "query": LISTED, "aggs": aggregations})
    for column, facet in enumerate(FACETS, start=2):
        counted = {bucket["key"]: bucket["doc_count"] for bucket in answer["aggregations"][facet]["buckets"]}
        there: dict[str, int] = {}
        for row in rows.values():
            there[row[column]] = there.get(row[column], 0) + 1
        for value in sorted(counted.keys() | there.keys()):
            if (one := counted.get(value, 0)) != (other := there.get(value, 0)):
                yield Violated(f"the facet {facet} counts {one} of {value!r}, the catalog sells {other}")


async def _cache(books: Books) -> Findings:
    """An entry may be old for as long as it may stay, and no longer than the shop needs to come to rest."""
    kept: dict[str, int] = {}
    async for sku, value, left in books.cached(CACHE):
        if left is None or left > REMEMBERED:
            yield Violated(
                f"the cache keeps {sku} for {'ever' if left is None else f'{left:.0f} s'}, not {REMEMBERED:.0f} s"
            )
        if payload := value[HEAD:]:
            kept[sku] = json.loads(payload)["version"]
    async with books.of("catalog") as catalog:
        replaced = await catalog.rows(NEXT_PRICES, list(kept))
        gone = await catalog.rows(RETIRED, list(kept))
    for sku, version, ago in [(sku, version - 1, ago) for sku, version, ago in replaced] + list(gone):
        if kept[sku] == version and ago > REMEMBERED + BOUND:
            yield Violated(f"the cache has {sku} at version {version}, which was replaced {ago:.0f} s ago")


CONVERGENCE = Invariant(
    "I9",
    "convergence: the search finds what the catalog sells, at its version and price; no cache is older than it may be",
    check,
)
