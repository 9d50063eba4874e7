"""Users, wired."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter

from faultline.patterns import Outbox, SessionStore
from faultline.patterns.run_loop import run_loop
from faultline.shop import database, messages, redis_client
from faultline.shop.errors import BadSettings
from faultline.shop.service import Service
from faultline.shop.users.api import Api
from faultline.shop.users.keys import Keys
from faultline.shop.users.oauth import OAuth
from faultline.shop.users.passwords import Passwords
from faultline.shop.users.store import Accounts, ApiKeys, Clients, Grants
from faultline.shop.users.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from faultline.shop.settings import Settings

PATIENCE = 0.5  # seconds for Redis
IDLE, ABSOLUTE = 14 * 24 * 3600.0, 90 * 24 * 3600.0  # seconds of a session
LOOK_EVERY = 60.0  # seconds between looks for a key that is due
FORGET_EVERY = 3600.0  # seconds

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """The stores and tasks of users, and its routes. Raises `BadSettings` without a secret."""
    if not (secret := settings.users_secret):
        raise BadSettings("SHOP_USERS_SECRET is empty; `./lab shop up` makes one")
    migrations = Path(__file__).with_name("migrations")
    async with (
        database.opened(settings.postgres, settings.service, migrations) as pool,
        redis_client.client(settings.redis, patience=PATIENCE) as redis,
        Passwords() as passwords,
        asyncio.TaskGroup() as tasks,
    ):
        accounts, clients, api_keys = Accounts(pool, Outbox()), Clients(pool), ApiKeys(pool)
        grants, keys = Grants(pool, secret), Keys(pool, secret, issuer=settings.issuer)
        sessions, tokens = SessionStore(redis, IDLE, ABSOLUTE), Tokens(keys, issuer=settings.issuer)
        await accounts.prepare()
        await keys.ensure()

        async def look() -> bool:
            await keys.ensure()
            return False

        async def forget() -> bool:
            await grants.forget()
            return False

        running = [
            tasks.create_task(messages.relay(settings.rabbitmq, database.dsn(settings.postgres, settings.service))),
            tasks.create_task(run_loop(look, every=LOOK_EVERY, on_error=_failed("looking after the keys"))),
            tasks.create_task(run_loop(forget, every=FORGET_EVERY, on_error=_failed("forgetting what has ended"))),
        ]
        routes = APIRouter()
        routes.include_router(
            Api(
                accounts=accounts,
                passwords=passwords,
                sessions=sessions,
                grants=grants,
                keys=api_keys,
                tokens=tokens,
            ).routes()
        )
        routes.include_router(
            OAuth(
                accounts=accounts,
                clients=clients,
                grants=grants,
                api_keys=api_keys,
                sessions=sessions,
                keys=keys,
                tokens=tokens,
            ).routes()
        )
        yield Service(title="users", routes=routes, ready={"postgres": accounts.ready, "redis": redis.ping})
        for task in running:
            task.cancel()


def _failed(what: str) -> Callable[[Exception], None]:
    return lambda error: log.warning("%s: begins again", what, extra={"reason": repr(error)})
