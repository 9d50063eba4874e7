"""Notifications, wired."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from faultline.patterns import Outbox
from faultline.shop import database, messages
from faultline.shop.notifications import events
from faultline.shop.notifications.api import Api
from faultline.shop.notifications.feed import Feed
from faultline.shop.notifications.store import Notifications
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The store and tasks of notifications, and its routes."""
    migrations, ears = Path(__file__).with_name("migrations"), messages.Ears()
    dsn, amqp = database.dsn(settings.postgres, settings.service), settings.rabbitmq
    async with (
        database.opened(settings.postgres, settings.service, migrations) as pool,
        asyncio.TaskGroup() as tasks,
    ):
        notifications, feed = Notifications(pool, Outbox()), Feed(dsn)
        await notifications.prepare()
        hears = events.hears(notifications)
        running = [
            tasks.create_task(work)
            for work in (
                messages.relay(amqp, dsn),
                messages.consume(amqp, dsn, queue="notifications.events", handlers=hears, ears=ears),
                feed.run(notifications),
            )
        ]
        yield Service(
            title="notifications",
            routes=Api(notifications, feed).routes(),
            ready={"postgres": notifications.ready, "rabbitmq": ears.ready},
            end=feed.end,
        )
        for task in running:
            task.cancel()
