"""Analytics, wired."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from faultline.patterns.run_loop import run_loop
from faultline.shop import database, messages
from faultline.shop.analytics import events
from faultline.shop.analytics.api import Api
from faultline.shop.analytics.backfill import Backfills
from faultline.shop.analytics.rpc import Sources
from faultline.shop.analytics.star import AT_ONCE, Loader
from faultline.shop.analytics.store import Reports, Staging
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from faultline.shop.settings import Settings

LOOK_EVERY = 0.2  # seconds between looks for what is to be loaded, or built again

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The star schema, what fills it, and its routes."""
    dsn, ears = database.dsn(settings.postgres, settings.service), messages.Ears()
    migrations = Path(__file__).with_name("migrations")
    async with (
        database.opened(settings.postgres, settings.service, migrations) as pool,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as tasks,
    ):
        staging, reports, sources = Staging(pool), Reports(pool), Sources(session, settings.peers)
        loader, backfills = Loader(pool), Backfills(pool, staging, sources, _now)

        async def load() -> bool:
            return await loader.run_once(_now()) == AT_ONCE

        hears = events.hears(staging)
        running = [
            tasks.create_task(work)
            for work in (
                messages.consume(settings.rabbitmq, dsn, queue="analytics.events", handlers=hears, ears=ears),
                run_loop(load, every=LOOK_EVERY, on_error=_failed("loading")),
                run_loop(backfills.run_once, every=LOOK_EVERY, on_error=_failed("a backfill")),
            )
        ]
        yield Service(
            title="analytics",
            routes=Api(reports, backfills, sources).routes(),
            ready={"postgres": reports.ready, "rabbitmq": ears.ready},
        )
        for task in running:
            task.cancel()


def _failed(what: str) -> Callable[[Exception], None]:
    return lambda error: log.warning("%s: begins again", what, extra={"reason": repr(error)})


def _now() -> datetime:
    return datetime.now(UTC)
