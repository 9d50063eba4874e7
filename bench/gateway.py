"""Our gateway beside a proxy that does nothing but forward, and a direct call as the limit.

    python -m bench.gateway

Starts its own Redis, upstream, proxy and gateway; takes about 20 s. Goals: GW1, the bare proxy takes at most 50 us of
processor time a request; GW2, the gateway takes at most 1.6 times that, with its table, headers, deadline, room,
breaker, retry budget, choice of replica, log line, and the limit in Redis (a round trip, where others count in memory).
"""

import asyncio
import logging
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import aiohttp
import uvicorn
from bench.interleave import goal, machine
from starlette.types import Receive, Scope, Send

from faultline.components import Supervisor, ports
from faultline.shop.gateway.domain import given_back, passed_on

DIRECT, BARE, OURS = "direct", "bare Starlette's server + aiohttp", "faultline"
REQUESTS, AT_ONCE, ROUNDS = 200, 8, 12
BARE_COST, RATIO = 50.0, 1.6
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n{"sku":"hat","price":2000}'


async def upstream(port: int) -> None:
    """Answers whatever is asked, as cheaply as asyncio can."""

    class Talk(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(ANSWER * data.count(b"\r\n\r\n"))

    server = await asyncio.get_running_loop().create_server(Talk, ports.HOST, port)
    await server.serve_forever()


async def bare(port: int, to: str) -> None:
    """Forwards, and does nothing else."""
    async with aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def app(scope: Scope, _receive: Receive, send: Send) -> None:
            path = scope["raw_path"].decode().removeprefix("/api")
            sent = {name.decode(): value.decode() for name, value in passed_on(scope["headers"])}
            async with session.request(scope["method"], f"http://{to}{path}", headers=sent) as answer:
                body = await answer.read()
            headers = [*given_back(answer.raw_headers), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        config = uvicorn.Config(app, host=ports.HOST, port=port, log_config=None, access_log=False, lifespan="off")
        await uvicorn.Server(config).serve()


@asynccontextmanager
async def started(*words: str, port: int, environment: dict[str, str] | None = None) -> AsyncIterator[int]:
    """A process that listens there; ended with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *words,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while not await _listens(port):  # noqa: ASYNC110 - a server calls nobody back
                await asyncio.sleep(0.02)
        yield process.pid
    finally:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(ports.HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def processor(pid: int) -> float:
    """Seconds of processor time that all its threads have had."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def asked(session: aiohttp.ClientSession, url: str) -> None:
    """Many requests, some at once."""
    left = iter(range(REQUESTS))

    async def caller() -> None:
        for _ in left:
            async with session.get(url, headers={"X-Guest": "bench".ljust(40, "-")}) as answer:
                await answer.read()
                assert answer.status == 200, await answer.text()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(caller())


async def compared(candidates: dict[str, tuple[str, int]], chance: random.Random) -> tuple[float, float]:
    """Microseconds of the bare proxy, and our ratio to it; every round asks all of them, in shuffled order."""
    cost: dict[str, list[float]] = {name: [] for name in candidates}
    took: dict[str, list[float]] = {name: [] for name in candidates}
    async with aiohttp.ClientSession() as session:
        for url, _ in candidates.values():
            await asked(session, url)
        for _ in range(ROUNDS):
            for name in chance.sample(list(candidates), len(candidates)):
                url, pid = candidates[name]
                before, began = processor(pid), perf_counter()
                await asked(session, url)
                took[name].append((perf_counter() - began) / REQUESTS * 1e6)
                cost[name].append((processor(pid) - before) / REQUESTS * 1e6)
    print(f"\nprocessor time of the process that is asked, and time, a request: us, median of {ROUNDS} x {REQUESTS}")
    for name in candidates:
        many, few = max(cost[name]), min(cost[name])
        print(f"  {name:36} {median(cost[name]):6.0f}  ({few:.0f}-{many:.0f})   {median(took[name]):6.0f}")
    ratio = median(ours / plain for ours, plain in zip(cost[OURS], cost[BARE], strict=True))
    return median(cost[BARE]), ratio


async def main() -> bool:
    """Whether the goals are met."""
    seed = 7
    names = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvicorn", "uvloop", "httptools"))
    print(f"{machine()}\n{names}, seed {seed}, {AT_ONCE} at once")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = await (await stack.enter_async_context(Supervisor(folder))).start("redis")
        first, second, third = (stack.enter_context(ports.reserved()) for _ in range(3))
        to = f"{ports.HOST}:{first}"
        environment = {
            "SHOP_GATEWAY_1_PORT": str(third),
            "SHOP_GATEWAY_TO_CATALOG_1": to,
            "SHOP_GATEWAY_TO_CATALOG_2": to,
            "SHOP_RATE_LIMIT": "100000",
            "SHOP_REDIS_URL": f"redis://{redis.host}:{redis.port}",
            "SHOP_POSTGRES_URL": "postgresql://nowhere",
            "SHOP_RABBITMQ_URL": "amqp://nowhere",
        }
        enter = stack.enter_async_context
        direct = await enter(started("bench.gateway", "upstream", str(first), port=first))
        plain = await enter(started("bench.gateway", "bare", str(second), to, port=second))
        ours = await enter(started("faultline.shop", "gateway", port=third, environment=environment))
        path = "/v1/products/hat"
        cost, ratio = await compared(
            {
                DIRECT: (f"http://{to}{path}", direct),
                BARE: (f"http://{ports.HOST}:{second}/api{path}", plain),
                OURS: (f"http://{ports.HOST}:{third}/api{path}", ours),
            },
            random.Random(seed),
        )
    print(machine())
    met = [
        goal(f"GW1 {cost:.0f} us <= {BARE_COST:.0f} us for the bare proxy", cost <= BARE_COST),
        goal(f"GW2 x{ratio:.2f} <= x{RATIO} of it for the gateway", ratio <= RATIO),
    ]
    return all(met)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    match sys.argv[1:]:
        case ["upstream", port]:
            asyncio.run(upstream(int(port)))
        case ["bare", port, to]:
            import uvloop

            uvloop.run(bare(int(port), to))
        case _:
            sys.exit(not asyncio.run(main()))
