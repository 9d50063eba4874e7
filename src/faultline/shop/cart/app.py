"""The cart, wired."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp

from faultline.shop import messages, redis_client
from faultline.shop.cart import events
from faultline.shop.cart.api import Api
from faultline.shop.cart.rpc import Catalog
from faultline.shop.cart.store import Carts, Products
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings

PATIENCE = 0.5  # seconds for Redis
AT_ONCE = 20  # requests to one replica of the catalog


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The cart's Redis, its ear, and its routes over them."""
    ears = messages.Ears()
    async with (
        redis_client.client(settings.redis, patience=PATIENCE) as redis,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit_per_host=AT_ONCE)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        carts, products = Carts(redis), Products(redis)
        hears = events.hears(carts, products)
        ear = tasks.create_task(messages.hear(settings.rabbitmq, queue="cart.events", handlers=hears, ears=ears))
        api = Api(carts, products, Catalog(session, settings.peers["catalog"]))
        yield Service(title="cart", routes=api.routes(), ready={"redis": carts.ready, "rabbitmq": ears.ready})
        ear.cancel()
