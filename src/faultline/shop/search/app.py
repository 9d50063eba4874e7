"""The search, wired."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp

from faultline.patterns import CircuitBreaker
from faultline.patterns.run_loop import run_loop
from faultline.shop import messages
from faultline.shop.search import events
from faultline.shop.search.api import Api
from faultline.shop.search.cluster import WITHIN, Cluster
from faultline.shop.search.rpc import Catalog, Inventory
from faultline.shop.search.store import Index, Stores
from faultline.shop.search.upkeep import Upkeep
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings

CALLS = 20  # requests at once to a replica of another service, or to OpenSearch
LOOK_EVERY = 0.5  # seconds between looks whether there is an index

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The search's index, its ear, and its routes over them."""
    ears = messages.Ears()
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit_per_host=CALLS)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        cluster = Cluster(session, settings.opensearch)
        index = Index(cluster, settings.search_index)
        catalog = Catalog(session, settings.peers["catalog"])
        inventory = Inventory(session, settings.peers["inventory"])
        upkeep = Upkeep(index, catalog, inventory, hears=ears.ready, tasks=tasks)
        hears = events.hears(events.Intake(index, inventory))
        running = [
            tasks.create_task(work)
            for work in (
                messages.hear(
                    settings.rabbitmq,
                    queue="search.events",
                    handlers=hears,
                    ears=ears,
                    at_once=events.AT_ONCE,
                ),
                run_loop(upkeep.look_after, every=LOOK_EVERY, on_error=_failed),
            )
        ]
        breaker = CircuitBreaker(minimum=5, open_for=1.0, slow_after=WITHIN)
        api = Api(index, Stores(cluster, settings.search_index), upkeep, breaker)
        yield Service(title="search", routes=api.routes(), ready={"opensearch": index.ready, "rabbitmq": ears.ready})
        for task in running:
            task.cancel()
        upkeep.end()


def _failed(error: Exception) -> None:
    log.warning("the index is not looked after", extra={"reason": repr(error)})
