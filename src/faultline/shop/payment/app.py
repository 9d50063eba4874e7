"""Payment, wired."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from faultline.patterns import Outbox
from faultline.shop import database, messages
from faultline.shop.payment import events
from faultline.shop.payment.api import Api
from faultline.shop.payment.rpc import Provider
from faultline.shop.payment.store import REPLIES, Payments
from faultline.shop.payment.work import Work
from faultline.shop.service import Service
from faultline.shop.signatures import Signatures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """Payment's store and tasks, and its routes."""
    migrations, ears, signatures = (
        Path(__file__).with_name("migrations"),
        messages.Ears(),
        Signatures(settings.provider_secret),
    )
    dsn, amqp = database.dsn(settings.postgres, settings.service), settings.rabbitmq
    (address,) = settings.peers["provider"]
    async with (
        database.opened(settings.postgres, settings.service, migrations) as pool,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as tasks,
    ):
        payments = Payments(pool, outbox=Outbox(), replies=Outbox(REPLIES))
        await payments.prepare()
        provider = Provider(session, address, signatures)
        running = [
            tasks.create_task(work)
            for work in (
                messages.relay(amqp, dsn),
                messages.relay(amqp, dsn, exchange=messages.COMMANDS, table=REPLIES),
                messages.consume(
                    amqp,
                    dsn,
                    queue="payment.commands",
                    handlers=events.carries_out(payments),
                    ears=ears,
                    exchange=messages.COMMANDS,
                ),
                messages.consume(amqp, dsn, queue="payment.events", handlers=events.hears(payments), ears=ears),
                Work(payments, provider).run(),
            )
        ]
        yield Service(
            title="payment",
            routes=Api(payments, provider, signatures).routes(),
            ready={"postgres": payments.ready, "rabbitmq": ears.ready},
        )
        for task in running:
            task.cancel()
