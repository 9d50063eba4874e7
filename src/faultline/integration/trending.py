"""redis/08: both replicas of the catalog rank by the learner's `Trending`, while many look at products."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import cycle
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from faultline.components import ports
from faultline.components.http import ask
from faultline.integration.stage import Finding, NotProven, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from faultline.components.http import Answer
    from faultline.integration.stage import Stage

PRODUCTS, LEAST = 12, 5
VIEWS = {f"product-{n}": LEAST * (n + 1) for n in range(PRODUCTS)}
"""How often each is looked at."""
AT_ONCE = 20
SEED = 8
QUICK = 1.0  # seconds for a product page while Redis stands still
AGAIN = 5.0  # seconds until the ranking is there again

Ranking: TypeAlias = list[tuple[int, str, int]]
"""Rank, product and views of each, as they came."""


class _Product(msgspec.Struct):
    sku: str


class _Rank(msgspec.Struct):
    rank: int
    views: int
    product: _Product


async def proof(stage: Stage, file: Path) -> Report:
    """Every view counts once, wherever it is told; every ranking is one. Raises `NotProven`."""
    stage.say(f"starting two replicas of catalog with {file.name} in them ...")
    async with stage.services("catalog", "gateway", setting={"SHOP_TRENDING": str(file)}) as running:
        catalog = _Catalog([running[name].port for name in ("catalog-1", "catalog-2")])
        await catalog.fill()
        total = sum(VIEWS.values())
        stage.say(f"{total} looks at {PRODUCTS} products, {AT_ONCE} at once; somebody reads the ranking meanwhile ...")
        findings = await _busy(catalog)
        stage.say("Redis stands still ...")
        findings += await _without_redis(stage, catalog)
    return Report(findings, f"{total} looks, in order at both replicas: they stand on your ranking.")


class _Catalog:
    """Both replicas, asked in turn."""

    def __init__(self, replicas: list[int]) -> None:
        self.replicas = replicas
        self._ports = cycle(replicas)

    async def ask(self, path: str, body: object = None, *, port: int = 0) -> Answer:
        """GET, or POST a body."""
        method, sent = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
        url = f"http://{ports.HOST}:{port or next(self._ports)}/v1/{path}"
        return await ask(url, method=method, body=sent, headers={"Content-Type": "application/json"})

    async def fill(self) -> None:
        """Have the products."""
        for sku in VIEWS:
            price = {"cents": 2000, "currency": "EUR"}
            answer = await self.ask("products", {"sku": sku, "name": sku, "category": "proof", "price": price})
            if answer.status != 201:
                raise NotProven(f"a product cannot be added: {answer.status} {answer.body[:200]!r}")

    async def ranking(self, *, port: int = 0) -> Ranking:
        """All of it. Raises `NotProven`."""
        answer = await self.ask(f"trending?limit={2 * PRODUCTS}", port=port)
        if answer.status != 200:
            raise NotProven(f"the ranking cannot be read: {answer.status} {answer.body[:200]!r}")
        return [(one.rank, one.product.sku, one.views) for one in msgspec.json.decode(answer.body, type=list[_Rank])]


async def _busy(catalog: _Catalog) -> list[Finding]:
    looks = [sku for sku, count in VIEWS.items() for _ in range(count)]
    random.Random(SEED).shuffle(looks)
    read: list[Ranking] = []
    reading = asyncio.create_task(_read(catalog, read))
    try:
        refused = await _look(catalog, iter(looks))
    finally:
        reading.cancel()
    await asyncio.wait([reading])
    if not reading.cancelled() and (error := reading.exception()):
        raise error
    first, second = [await catalog.ranking(port=port) for port in catalog.replicas]
    counted = {sku: views for _, sku, views in first}
    miscounted = [f"{sku}: {counted.get(sku, 0)} of {views}" for sku, views in VIEWS.items()]
    return [
        Finding("every look is taken", f"{refused} of {len(looks)} were not" if refused else ""),
        Finding("every look counts once", "" if counted == VIEWS else f"counted were {', '.join(miscounted)}"),
        Finding("both replicas say the same", "" if first == second else f"{first}, and {second}"),
        Finding("every ranking goes from 1 on, the best first", _first([*read, first], _disordered)),
        Finding("nobody's looks become fewer", _shrunk(read)),
    ]


async def _look(catalog: _Catalog, looks: Iterator[str]) -> int:
    """Somebody looks at each; how many were not taken."""
    refused = 0

    async def viewer() -> None:
        nonlocal refused
        for sku in looks:
            refused += (await catalog.ask(f"products/{sku}/views", {})).status != 204

    async with asyncio.TaskGroup() as viewers:
        for _ in range(AT_ONCE):
            viewers.create_task(viewer())
    return refused


async def _read(catalog: _Catalog, read: list[Ranking]) -> None:
    while True:
        read.append(await catalog.ranking())
        await asyncio.sleep(0.01)


def _first(read: list[Ranking], wrong: Callable[[Ranking], bool]) -> str:
    return next((f"somebody read {ranking}" for ranking in read if wrong(ranking)), "")


def _disordered(ranking: Ranking) -> bool:
    ranks = [rank for rank, _, _ in ranking]
    views = [count for _, _, count in ranking]
    return ranks != list(range(1, len(ranks) + 1)) or views != sorted(views, reverse=True)


def _shrunk(read: list[Ranking]) -> str:
    if len(read) < 2:
        return "nobody has read it twice meanwhile: nothing is shown"
    seen: dict[str, int] = {}
    for ranking in read:
        now = {sku: views for _, sku, views in ranking}
        for sku, views in seen.items():
            if now.get(sku, 0) < views:
                return f"{sku} had {views}, and then {now.get(sku, 0)}"
        seen = now
    return ""


async def _without_redis(stage: Stage, catalog: _Catalog) -> list[Finding]:
    """The ranking may be missing then; the products are not."""
    before = await catalog.ranking()
    redis = stage.server("redis")
    await redis.pause()
    try:
        pages, took = list[int](), list[float]()
        for sku in list(VIEWS)[:4]:
            began = monotonic()
            pages.append((await catalog.ask(f"products/{sku}")).status)
            took.append(monotonic() - began)
        ranking = (await catalog.ask("trending")).status
    finally:
        await redis.resume()
    against = "" if pages == [200] * len(pages) else f"the pages answered {pages}"
    if not against and max(took) > QUICK:
        against = f"one took {max(took):.1f} s"
    until, after = monotonic() + AGAIN, list[object]()
    while after != before and monotonic() < until:
        try:
            after = [*await catalog.ranking()]
        except NotProven:
            await asyncio.sleep(0.05)
    return [
        Finding(f"while Redis stands still, product pages are there within {QUICK:.0f} s", against),
        Finding("the ranking says that it cannot be known", "" if ranking == 503 else f"it answered {ranking}"),
        Finding("afterwards it is as before", "" if after == before else f"{after}; before: {before}"),
    ]
