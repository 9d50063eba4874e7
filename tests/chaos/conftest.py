"""A shop of one's own with a proxy on every edge, its books, and buyers."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo
from tests.shop.conftest import an_index

from faultline.chaos import rig
from faultline.chaos.books import Books
from faultline.chaos.buyers import Buyer, Filler
from faultline.chaos.history import History
from faultline.components import Clone, Supervisor
from faultline.engine import shop as shops
from faultline.shop import seed
from faultline.testbed.rabbitmq import RabbitServer

PRODUCTS = 20


@dataclass(frozen=True, slots=True)
class Shop:
    """The running shop, and what is done to it."""

    rig: rig.Rig
    books: Books
    history: History
    postgres: str
    redis: str
    opensearch: str
    index: str

    def buyer(self, user: str) -> Buyer:
        return Buyer(user, self.rig.urls("orders"), self.history)

    def filler(self, user: str) -> Filler:
        return Filler(user, self.rig.urls("cart"), self.history)

    async def run(self, service: str, *statements: str) -> None:
        """As nobody but a defect would: past every trigger and key."""
        where = make_conninfo(self.postgres, dbname=service)
        async with await psycopg.AsyncConnection.connect(where) as connection:
            await connection.execute("SET session_replication_role = replica")
            for statement in statements:
                await connection.execute(statement.encode())

    async def rows(self, service: str, statement: str) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(make_conninfo(self.postgres, dbname=service)) as connection:
            return await (await connection.execute(statement.encode())).fetchall()


@asynccontextmanager
async def opened(folder: Path, where: tuple[str, int, int], opensearch: str) -> AsyncIterator[Shop]:
    history = History(folder / "history.jsonl")
    async with Supervisor(folder / "servers") as supervisor, RabbitServer(*where).vhost("chaos") as broker:
        postgres = await supervisor.start("postgres", settings={**shops.SETTINGS["postgres"], "fsync": False})
        redis = await supervisor.start("redis", settings={"append_only": True, "fsync": "always"})
        urls = {"postgres": postgres.url, "redis": redis.url, "rabbitmq": broker.url, "opensearch": opensearch}
        index = an_index()
        async with (
            rig.opened(Clone(folder, {**os.environ, "SHOP_SEARCH_INDEX": index}), urls) as one,
            Books(
                postgres=postgres.url,
                broker=broker,
                history=history.operations,
                opensearch=opensearch,
                index=index,
                redis=redis.url,
            ) as books,
        ):
            await seed.seed({"SHOP_POSTGRES_URL": postgres.url}, products=PRODUCTS)
            yield Shop(one, books, history, postgres.url, redis.url, opensearch, index)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shop_(
    shared_broker: tuple[str, int, int], shared_opensearch: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    """The shop of all tests of this folder."""
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with opened(folder, shared_broker, shared_opensearch) as one:
        yield one
