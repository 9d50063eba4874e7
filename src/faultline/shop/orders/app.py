"""Orders, wired."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp

from faultline.patterns import EventStore, Orchestrator
from faultline.shop import database, messages
from faultline.shop.orders import projections, saga
from faultline.shop.orders.api import Api
from faultline.shop.orders.events import hears
from faultline.shop.orders.rpc import Catalog, Inventory, Payment, channel
from faultline.shop.orders.store import COMMANDS, CONNECTIONS, Orders, snapshots
from faultline.shop.orders.upcasters import UPCASTERS
from faultline.shop.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from faultline.shop.settings import Settings

LOOK_EVERY = 0.1  # seconds between looks for what is to be done
AT_ONCE = 20  # requests to one replica of another service

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The stores and tasks of orders, and its routes."""
    dsn, amqp, ears = database.dsn(settings.postgres, settings.service), settings.rabbitmq, messages.Ears()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(database.opened(settings.postgres, settings.service, most=CONNECTIONS))
        session = await enter(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit_per_host=AT_ONCE)))
        channels = [await enter(channel(address)) for address in settings.peers["inventory"]]
        events = await enter(EventStore(dsn, upcasters=UPCASTERS, connections=CONNECTIONS))
        orders = Orders(pool, events, await enter(snapshots(events, dsn)))
        payment = Payment(session, settings.peers["payment"])
        checkout = saga.Checkout(orders, Inventory(channels), payment)
        orchestrator = await enter(
            Orchestrator(dsn, [checkout.saga], lease=saga.LEASE, cap=saga.LONGEST_PAUSE, connections=CONNECTIONS)
        )
        checkouts = saga.Checkouts(orchestrator, checkout.saga)
        projector = await enter(projections.projector(events, dsn))
        for made in (orders.prepare, orchestrator.create, projector.create):
            await made()
        changes = projections.Changes(events)
        tasks = await enter(asyncio.TaskGroup())
        running = [
            tasks.create_task(work)
            for work in (
                messages.relay(amqp, dsn),
                messages.relay(amqp, dsn, exchange=messages.COMMANDS, table=COMMANDS),
                messages.hear(
                    amqp,
                    queue="orders.replies",
                    handlers=checkouts.hears(),
                    ears=ears,
                    exchange=messages.COMMANDS,
                ),
                messages.hear(amqp, queue="orders.events", handlers=hears(orders), ears=ears),
                orchestrator.run(on_error=_failed("the checkout"), every=LOOK_EVERY),
                projector.run(on_error=_failed("the projection"), every=LOOK_EVERY),
                changes.run(await projector.position(), on_error=_failed("looking for changes")),
            )
        ]
        api = Api(
            orders=orders,
            catalog=Catalog(session, settings.peers["catalog"]),
            checkouts=checkouts,
            mine=projections.MyOrders(pool),
            changes=changes,
            projector=projector,
        )
        yield Service(title="orders", routes=api.routes(), ready={"postgres": orders.ready, "rabbitmq": ears.ready})
        for task in running:
            task.cancel()


def _failed(what: str) -> Callable[[Exception], None]:
    return lambda error: log.warning("%s: begins again", what, extra={"reason": repr(error)})
