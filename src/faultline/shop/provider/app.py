"""The provider, wired."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from faultline.shop import database
from faultline.shop.provider.api import Api
from faultline.shop.provider.store import Moves
from faultline.shop.provider.webhooks import Webhooks
from faultline.shop.service import Service
from faultline.shop.signatures import Signatures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faultline.shop.settings import Settings


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The provider's store, its webhooks, and its routes."""
    migrations, signatures = Path(__file__).with_name("migrations"), Signatures(settings.provider_secret)
    (address,) = settings.peers["payment"]
    async with (
        database.opened(settings.postgres, settings.service, migrations) as pool,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as tasks,
    ):
        moves = Moves(pool)
        sending = tasks.create_task(Webhooks(moves, session, address, signatures).run())
        yield Service(title="provider", routes=Api(moves, signatures).routes(), ready={"postgres": moves.ready})
        sending.cancel()
