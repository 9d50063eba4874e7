"""Inventory, wired."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from faultline.patterns import Outbox
from faultline.shop import database, messages, redis_client, seam
from faultline.shop.inventory import api, events, rpc
from faultline.shop.inventory.feed import Feed
from faultline.shop.inventory.flash_sale import Till
from faultline.shop.inventory.store import Stock
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings

PATIENCE = 0.5  # seconds for Redis
LOOK_EVERY = 0.25  # seconds between looks for what was held too long

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """Inventory's store and tasks, its gRPC server, and its routes."""
    migrations, lock, ears = Path(__file__).with_name("migrations"), seam.loaded(settings.lock), messages.Ears()
    amqp, dsn = settings.rabbitmq, database.dsn(settings.postgres, settings.service)
    async with (
        database.opened(settings.postgres, settings.service, migrations) as pool,
        redis_client.client(settings.redis, patience=PATIENCE) as redis,
        asyncio.TaskGroup() as tasks,
    ):
        feed = Feed(dsn, settings.replica.name)
        stock = Stock(pool, Outbox(), feed.changed)
        await stock.prepare()
        running = [
            tasks.create_task(messages.relay(amqp, dsn)),
            tasks.create_task(
                messages.consume(amqp, dsn, queue="inventory.events", handlers=events.hears(stock), ears=ears)
            ),
            tasks.create_task(_expire(stock)),
            tasks.create_task(feed.run(stock)),
        ]
        till = Till(stock, redis, lock.DistributedLock, lock.LockUnavailable)
        ready = {"postgres": stock.ready, "rabbitmq": ears.ready}
        async with rpc.served(rpc.Inventory(stock, till, feed), settings, ready, end=feed.end):
            yield Service(title="inventory", routes=api.Api(stock).routes(), ready=ready)
        for task in running:
            task.cancel()


async def _expire(stock: Stock) -> NoReturn:
    while True:
        try:
            while await stock.expire():
                pass
        except (OperationalError, PoolTimeout) as error:
            log.warning("nothing expires", extra={"reason": repr(error)})
        await asyncio.sleep(LOOK_EVERY)
