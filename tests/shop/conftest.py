"""The shop as it runs: services in processes of their own, on real servers, with a fault proxy before each store."""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import msgspec
import psycopg
import pytest
import pytest_asyncio

from faultline.components import Clone, Instance, Supervisor
from faultline.components.http import Answer, ask
from faultline.components.proxy import FaultProxy
from faultline.engine import shop
from faultline.patterns import Event
from faultline.shop.contracts import Contract, said
from faultline.shop.database import dsn
from faultline.testbed.rabbitmq import Broker, RabbitServer

DEADLINE = 30.0


async def say(shop: "Shop", *events: tuple[Contract, str, int]) -> None:
    """As a relay would."""
    async with await aio_pika.connect(shop.broker.url) as connection:
        exchange = await (await connection.channel()).get_exchange("shop.events")
        for event, subject, sequence in events:
            envelope: Event = said(
                event, subject=subject, sequence=sequence, time=datetime.now(UTC), correlation="a-test"
            )
            message = aio_pika.Message(
                msgspec.json.encode(envelope.data),
                message_id=envelope.id,
                type=envelope.type,
                headers={**envelope.headers, "subject": subject},
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, routing_key=envelope.type)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service has answered."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Shop:
    """The running shop, and what is done to it."""

    services: shop.Services
    postgres: Instance
    redis: Instance
    broker: Broker
    before_postgres: FaultProxy
    before_redis: FaultProxy

    def process(self, name: str) -> shop.Running:
        """As the fork-server says it is now."""
        return next(one for one in shop.read(self.services.folder) if one.name == name)

    async def ask(self, name: str, path: str, body: object = None, *, method: str = "", **headers: str) -> Reply:
        """GET, or POST if there is a body; `If_Match` is a header."""
        answer: Answer = await ask(
            f"http://127.0.0.1:{self.process(name).port}{path}",
            method=method or ("GET" if body is None else "POST"),
            body=b"" if body is None else json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                **{key.replace("_", "-"): one for key, one in headers.items()},
            },
        )
        kind = answer.headers.get("content-type", "")
        is_json = "json" in kind and answer.body
        return Reply(answer.status, answer.headers, json.loads(answer.body) if is_json else answer.body.decode())

    async def rows(self, database: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What is in a service's own database."""
        async with await psycopg.AsyncConnection.connect(dsn(self.postgres.url, database)) as connection:
            return await (await connection.execute(statement, values)).fetchall()  # type: ignore[arg-type]  # pyright: ignore

    async def run(self, database: str, statement: str, *values: object) -> None:
        """Change it."""
        async with await psycopg.AsyncConnection.connect(dsn(self.postgres.url, database)) as connection:
            await connection.execute(statement, values)  # type: ignore[arg-type]  # pyright: ignore

    async def again(self, name: str, *, after: int) -> None:
        """Wait until a process that has ended has a ready successor."""

        async def ready() -> bool:
            if self.process(name).pid in {None, after}:
                return False
            try:
                return (await self.ask(name, "/ready")).status == 200
            except OSError:
                return False

        await until(ready)

    def log(self, name: str) -> list[dict[str, Any]]:
        """What the process has said, line by line."""
        text = (self.services.folder / f"{name}.log").read_text()
        return [json.loads(line) for line in text.splitlines()]


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until the answer is true, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110 - a server calls nobody back
            await asyncio.sleep(0.005)


def an_index() -> str:
    """A name that no other test has."""
    return f"test-{secrets.token_hex(6)}"


@asynccontextmanager
async def opened(
    folder: Path,
    where: tuple[str, int, int],
    names: tuple[str, ...] = shop.SEARCHLESS,
    *,
    opensearch: str = "",
    **environment: str,
) -> AsyncIterator[Shop]:
    """A shop of one's own, or some services of one; the environment is added to that of its services."""
    clone = Clone(folder, {**os.environ, **environment})
    async with (
        Supervisor(folder / "servers") as supervisor,
        RabbitServer(*where).vhost("shop") as broker,
    ):
        postgres = await supervisor.start("postgres", settings={**shop.SETTINGS["postgres"], "fsync": False})
        redis = await supervisor.start("redis", settings={"append_only": True, "fsync": "always"})
        async with (
            FaultProxy(postgres.host, postgres.port, protocol="postgres", seed=1) as before_postgres,
            FaultProxy(redis.host, redis.port, protocol="redis", seed=1) as before_redis,
        ):
            urls = {
                "postgres": f"postgresql://postgres@127.0.0.1:{before_postgres.port}/postgres",
                "redis": f"redis://127.0.0.1:{before_redis.port}",
                "rabbitmq": broker.url,
                **({"opensearch": opensearch} if opensearch else {}),
            }
            async with shop.running(clone, urls, names) as services:
                await services.ready()
                yield Shop(services, postgres, redis, broker, before_postgres, before_redis)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop_(
    request: pytest.FixtureRequest, shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """The shop of all tests of a file, without its search, or the services of it that its `NAMES` name."""
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    names = getattr(request.module, "NAMES", shop.SEARCHLESS)
    given = {}
    if "search" in names:
        url: str = request.getfixturevalue("shared_opensearch")
        given = {"opensearch": url, "SHOP_SEARCH_INDEX": an_index()}
    async with opened(folder, shared_broker, names, **given) as one:
        yield one
