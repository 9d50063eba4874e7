"""The catalog, wired."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from faultline.patterns import CacheAside, CircuitBreaker, Outbox
from faultline.shop import database, messages, redis_client, seam
from faultline.shop.catalog import api, events
from faultline.shop.catalog.domain import Product
from faultline.shop.catalog.store import Products, Trending
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings

REMEMBERED = 300.0  # seconds; an event that is late costs no more than that
PATIENCE = 0.5  # seconds for Redis


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The catalog's stores and tasks, and its routes over them."""
    migrations, ears = Path(__file__).with_name("migrations"), messages.Ears()
    ranking = seam.loaded(settings.trending)
    async with (
        database.opened(settings.postgres, settings.service, migrations) as pool,
        redis_client.client(settings.redis, patience=PATIENCE) as redis,
        asyncio.TaskGroup() as tasks,
    ):
        products = Products(pool, Outbox())
        await products.prepare()
        cache: CacheAside[Product] = CacheAside(
            redis,
            products.find,
            REMEMBERED,
            prefix="catalog:product:1:",  # 1: what an entry looks like
            encode=msgspec.json.encode,
            decode=msgspec.json.Decoder(Product).decode,
        )
        trending: Trending = ranking.Trending(redis)
        breaker = CircuitBreaker(minimum=5, open_for=2.0, slow_after=PATIENCE)
        hears = events.hears(cache)
        running = [
            tasks.create_task(messages.relay(settings.rabbitmq, database.dsn(settings.postgres, settings.service))),
            tasks.create_task(messages.hear(settings.rabbitmq, queue="catalog.events", handlers=hears, ears=ears)),
        ]
        yield Service(
            title="catalog",
            routes=api.Api(products, cache, trending, breaker, lambda: datetime.now(UTC)).routes(),
            ready={"postgres": products.ready, "rabbitmq": ears.ready},
        )
        for task in running:
            task.cancel()
