"""What seeding promises."""

import hashlib
from pathlib import Path

import msgspec
import psycopg
import pytest

from faultline.components import Supervisor
from faultline.patterns import Outbox
from faultline.shop import database, seed, users
from faultline.shop.contracts import Role
from faultline.shop.database import dsn
from faultline.shop.users.store import Accounts

TABLES = (
    ("catalog", "product"),
    ("catalog", "price"),
    ("catalog", "outbox"),
    ("inventory", "stock"),
    ("inventory", "movement"),
    ("inventory", "outbox"),
)
UNITS = [29, 9, 47, 17]
THOUSAND = "ec23c0fa9bd1e4950d8c66d5e4c2f1483469ff4ddda8376a4beb6e394cf09dca"


def test_products_are_the_same_everywhere_and_whatever_their_number() -> None:
    products = [seed.product(number) for number in range(1, 1001)]
    assert hashlib.sha256(msgspec.json.encode(products)).hexdigest() == THOUSAND
    assert seed.product(777) == products[776]
    assert [seed.units(number) for number in (1, 2, 3, 777)] == UNITS


def test_products_are_believable() -> None:
    products = [seed.product(number) for number in range(1, 1001)]
    assert len({product.sku for product in products}) == 1000
    for kind in seed.KINDS:
        low, high = kind.cents
        some = [product for product in products if product.category == kind.category]
        assert len(some) > 50
        assert all(low - 100 < product.price.cents <= high and product.price.cents % 100 == 99 for product in some)
        assert all(product.attributes[kind.attribute] in product.description for product in some)


@pytest.mark.once
async def test_seeding_again_adds_what_is_missing_and_tells_of_nothing_else(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        environment = {"SHOP_POSTGRES_URL": server.url}
        assert [await seed.seed(environment, products=number) for number in (30, 30, 50)] == [30, 0, 20]
        for service, table in TABLES:
            async with await psycopg.AsyncConnection.connect(dsn(server.url, service)) as connection:
                found = await (await connection.execute(f"SELECT count(*) FROM {table}")).fetchone()  # pyright: ignore
            assert found == (50,), (service, table)


@pytest.mark.once
async def test_the_first_administrator_is_whoever_has_registered_so(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        server = await supervisor.start("postgres", settings={"fsync": False})
        environment = {"SHOP_POSTGRES_URL": server.url}
        async with database.opened(server.url, "users", Path(users.__path__[0]) / "migrations") as pool:
            accounts = Accounts(pool, Outbox())
            await accounts.prepare()
            for email in ("ada@shop.example", "eve@shop.example"):
                assert await accounts.register(email, "-", Role.CUSTOMER)
            assert not await seed.appoint(environment, "nobody@shop.example")
            assert await seed.appoint(environment, "Ada@shop.example")
            async with pool.connection() as connection:
                found = await (await connection.execute("SELECT email, role FROM account ORDER BY email")).fetchall()
        assert found == [("ada@shop.example", "admin"), ("eve@shop.example", "customer")]
