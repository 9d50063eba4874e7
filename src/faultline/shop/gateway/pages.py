"""The product page: what several services know of one product, in one answer, within one deadline.

    GET /api/v1/product-pages/hat ──┬─► catalog    what it is, and costs     without it there is no page
                                    │      └─► search  what else there is of its category ┐
                                    ├─► catalog    what it has cost                       ├ what is not here in time
                                    ├─► inventory  how many there are                     │ is null, and named in
                                    └─► cart       how many of it you have                ┘ `missing`

All that can be are asked at once, each through the room and the breaker of its service, and for no longer than the
caller waits; whoever leaves takes all of it along. Who has no cart, or a token that is not good for carts, has no
`in_cart`, and misses nothing.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDict

from faultline.patterns import DeadlineExceeded, NotTried, deadline
from faultline.shop.callers import USER
from faultline.shop.gateway.domain import Forbidden, Unknown, allowed, product_page
from faultline.shop.gateway.rpc import Answer, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from faultline.shop.gateway.domain import Route

PATIENCE = 0.5  # seconds for what a page can do without
GONE = (NotTried, DeadlineExceeded, OSError, aiohttp.ClientError)
"""What a service that does not answer ends with."""
HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
PARTS = {"stock": "/v1/stock/{sku}", "prices": "/v1/products/{sku}/prices"}
PRODUCT, CART, SEARCH = "/v1/products/{sku}", "/v1/cart", "/v1/search"
SIMILAR = 4  # products


class Pages:
    """Puts product pages together."""

    def __init__(self, reads: Mapping[str, Route], ask: Callable[[Request], Awaitable[Answer]]) -> None:
        """`reads`: the lines of the table for GET, by path. `ask`: as the gateway asks for any of them."""
        self._reads, self._ask = reads, ask

    async def answer(self, request: Request) -> Answer:
        """The page; or what the catalog answers, if that is no product. Raises as `Upstream.ask` for the catalog."""
        sku = request.target.partition("?")[0].rpartition("/")[2]
        async with deadline(request.route.seconds), asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(self._product(sku))
            wanted = {name: tasks.create_task(self._part(path, path.format(sku=sku))) for name, path in PARTS.items()}
            wanted["similar"] = tasks.create_task(self._similar(asked))
            if self._has_cart(request):
                wanted["cart"] = tasks.create_task(self._part(CART, CART, {USER: request.headers[USER]}))
            product = await asked
            if not isinstance(product, Answer) or product.status != 200:
                for task in wanted.values():
                    task.cancel()
        if isinstance(product, Exception):
            raise product
        if product.status != 200:
            return product
        page = product_page(json.loads(product.body), {name: task.result() for name, task in wanted.items()}, SIMILAR)
        return Answer(200, HEADERS, json.dumps(page, separators=(",", ":")).encode())

    def _has_cart(self, request: Request) -> bool:
        try:
            allowed(request.subject, self._reads[CART].needs)
        except (Unknown, Forbidden):
            return False
        return True

    async def _product(self, sku: str) -> Answer | Exception:
        try:
            return await self._read(PRODUCT, PRODUCT.format(sku=sku), {})
        except GONE as error:  # as a value: a group of tasks would make a group of it
            return error

    async def _similar(self, asked: asyncio.Task[Answer | Exception]) -> Any:
        """What is found of its category, once that is known."""
        product = await asked
        if not isinstance(product, Answer) or product.status != 200:
            return {}
        wanted = {"category": json.loads(product.body)["category"], "limit": SIMILAR + 1}  # it is one of them itself
        return await self._part(SEARCH, f"{SEARCH}?{urlencode(wanted)}")

    async def _part(self, path: str, target: str, headers: Mapping[str, str] | None = None) -> Any:
        """What the service says; None if it does not in time. What it does not know is nothing: an empty object."""
        try:
            async with deadline(PATIENCE):
                answer = await self._read(path, target, headers or {})
        except GONE:
            return None
        if answer.status == 404:
            return {}
        return json.loads(answer.body) if answer.status == 200 else None

    async def _read(self, path: str, target: str, headers: Mapping[str, str]) -> Answer:
        return await self._ask(
            Request(route=self._reads[path], target=target, headers=CIMultiDict(headers), body=b"", repeatable=True)
        )
