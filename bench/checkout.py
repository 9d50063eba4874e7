"""Checkouts a second, with everything on, beside pgbench's TPC-B on the same PostgreSQL, fsync on, in the same run.

    python -m bench.checkout

Starts its own servers and shop; takes about a minute. A checkout goes through the gateway and ends when the order is
confirmed in the order's stream: three databases, a gRPC call each way, a command and its reply, the provider's answer
over HTTP, and all events delivered. Then an open model: orders come at six tenths of that rate whatever becomes of
them, so a stall is seen by all who come during it.
"""

import asyncio
import contextlib
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import aiohttp
import psycopg
from bench.gateway import processor
from bench.interleave import machine
from psycopg.conninfo import make_conninfo

from faultline.components import Clone, Instance, Supervisor, ports
from faultline.engine import shop

ROUNDS, ORDERS, CALLERS = 3, 150, 16
CLIENTS, SECONDS, SCALE = 8, 5, 10
OPEN_SECONDS, OPEN_SHARE = 10, 0.6
PRODUCTS, STOCK = 20, 10**6
CONFIRMED = "SELECT count(*) FROM events WHERE type = 'order-confirmed'"
TOOK = """
SELECT extract(epoch FROM confirmed.recorded_at - placed.recorded_at)::float8
FROM events AS placed JOIN events AS confirmed USING (stream)
WHERE placed.type = 'order-placed' AND confirmed.type = 'order-confirmed' AND placed.data ->> 'key' LIKE 'open-%'
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """The shop, its database server, and a client."""

    services: shop.Services
    postgres: Instance
    session: aiohttp.ClientSession

    def url(self, service: str) -> str:
        one = next(one for one in shop.read(self.services.folder) if one.name == f"{service}-1")
        return f"http://{ports.HOST}:{one.port}"

    async def buy(self, key: str, sku: str) -> float:
        """Order one; the seconds until it was accepted."""
        began = time.perf_counter()
        body = {"lines": [{"sku": sku, "quantity": 1}]}
        told = {"X-Guest": key.ljust(40, "-"), "Idempotency-Key": key}
        async with self.session.post(f"{self.url('gateway')}/api/v1/orders", json=body, headers=told) as answer:
            assert answer.status == 202, await answer.text()
        return time.perf_counter() - began

    async def confirmed(self, wanted: int) -> None:
        """Wait until so many orders are, of all rounds."""
        where = make_conninfo(self.postgres.url, dbname="orders")
        async with await psycopg.AsyncConnection.connect(where, autocommit=True) as connection:
            async with asyncio.timeout(120):
                while True:
                    row = await (await connection.execute(CONFIRMED)).fetchone()
                    if row and row[0] >= wanted:
                        return
                    await asyncio.sleep(0.02)

    def used(self) -> dict[str, float]:
        """Seconds of processor time until now, by service and server."""
        found: dict[str, float] = defaultdict(float)
        for one in shop.read(self.services.folder):
            if one.pid:
                found[one.name.rpartition("-")[0]] += processor(one.pid)
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                name = (path / "comm").read_text().strip()
                if name in {"postgres", "beam.smp", "redis-server", "valkey-server"}:
                    found[name] += processor(int(path.name))
        return found


async def tpcb(postgres: Instance) -> float:
    """Transactions a second of pgbench's own load."""
    process = await asyncio.create_subprocess_exec(
        _pgbench(postgres), "-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS), "-n", make_conninfo(postgres.url),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    printed, _ = await process.communicate()
    found = re.search(r"tps = ([\d.]+)", printed.decode())
    assert found, printed
    return float(found[1])


def _pgbench(postgres: Instance) -> str:
    assert postgres.pid
    return str(Path(f"/proc/{postgres.pid}/exe").readlink().with_name("pgbench"))


async def burst(bench: Bench, number: int, sku: str) -> float:
    """Confirmed orders a second, of some who buy one after the other, several at once."""
    left = iter(range(ORDERS))
    began = time.perf_counter()

    async def caller() -> None:
        for order in left:
            await bench.buy(f"burst-{number}-{order}", sku)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(caller())
    await bench.confirmed((number + 1) * ORDERS)
    return ORDERS / (time.perf_counter() - began)


async def opened(bench: Bench, rate: float, sku: str) -> None:
    """Orders at a fixed rate; prints how long they took from when they were due."""
    orders = round(rate * OPEN_SECONDS)
    began = time.perf_counter()

    async def one(number: int) -> float:
        due = began + number / rate
        await asyncio.sleep(due - time.perf_counter())
        await bench.buy(f"open-{number}", sku)
        return time.perf_counter() - due

    accepted = await asyncio.gather(*(one(number) for number in range(orders)))
    await bench.confirmed(ROUNDS * ORDERS + orders)
    where = make_conninfo(bench.postgres.url, dbname="orders")
    async with await psycopg.AsyncConnection.connect(where) as connection:
        took = [row[0] for row in await (await connection.execute(TOOK)).fetchall()]
    print(f"\nopen model, {orders} orders at {rate:.1f}/s: seconds, p50 and p99")
    for what, found in (("due to accepted (202)", accepted), ("placed to confirmed", took)):
        cuts = quantiles(found, n=100)
        print(f"  {what:24} {cuts[49]:.3f}  {cuts[98]:.3f}")


def shares(used: Mapping[str, float], orders: int) -> None:
    """What the processor was busy with."""
    print(f"\nprocessor time an order, ms: {sum(used.values()) / orders * 1000:.1f} in all")
    for name, seconds in sorted(used.items(), key=lambda one: -one[1]):
        print(f"  {name:24} {seconds / orders * 1000:6.2f}")


async def main() -> None:
    """Measure, and print."""
    print(machine())
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # PostgreSQL runs as another user  # noqa: ASYNC240
        supervisor = await stack.enter_async_context(Supervisor(folder / "servers"))
        postgres = await supervisor.start("postgres", settings=shop.SETTINGS["postgres"])
        redis = await supervisor.start("redis", settings=shop.SETTINGS["redis"])
        rabbitmq = await supervisor.start("rabbitmq")
        urls = {"postgres": postgres.url, "redis": redis.url, "rabbitmq": rabbitmq.url}
        clone = Clone(folder, {**os.environ, "SHOP_RATE_LIMIT": "10000000"})
        services = await stack.enter_async_context(shop.running(clone, urls, shop.SEARCHLESS))
        await services.ready()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        bench = Bench(services, postgres, session)
        seeding = [sys.executable, "-m", "faultline.shop.seed", "--products", str(PRODUCTS)]
        quiet = asyncio.subprocess.DEVNULL
        await (
            await asyncio.create_subprocess_exec(*seeding, env={**os.environ, **shop.variables(urls)}, stdout=quiet)
        ).wait()
        await (
            await asyncio.create_subprocess_exec(
                _pgbench(postgres),
                "-i",
                "-q",
                "-s",
                str(SCALE),
                make_conninfo(postgres.url),
                stdout=quiet,
                stderr=quiet,
            )
        ).wait()
        async with session.get(f"{bench.url('gateway')}/api/v1/products?limit=1") as answer:
            sku = (await answer.json())["items"][0]["sku"]
        async with session.put(
            f"{bench.url('inventory')}/v1/stock/{sku}/receipts/bench", json={"quantity": STOCK}
        ) as answer:
            assert answer.status == 200, await answer.text()
        rates: list[tuple[float, float]] = []
        spent: dict[str, float] = defaultdict(float)
        for number in range(ROUNDS):
            plain = await tpcb(postgres)
            before = bench.used()
            rates.append((plain, await burst(bench, number, sku)))
            for name, seconds in bench.used().items():
                spent[name] += seconds - before.get(name, 0.0)
        print(
            f"\n{ROUNDS} rounds: pgbench TPC-B ({CLIENTS} clients, {SECONDS} s), then {ORDERS} checkouts by {CALLERS}"
        )
        for plain, ours in rates:
            print(f"  {plain:8.0f} transactions/s   {ours:6.1f} checkouts/s   x{ours / plain:.4f}")
        rate = median(ours for _, ours in rates)
        print(f"  median: {rate:.1f} checkouts/s, x{median(ours / plain for plain, ours in rates):.4f} of TPC-B")
        shares(spent, ROUNDS * ORDERS)
        await opened(bench, rate * OPEN_SHARE, sku)
    print(f"\n{machine()}")


if __name__ == "__main__":
    asyncio.run(main())
