"""What Prometheus and Alertmanager promise together: numbers are scraped, rules evaluated, somebody is told."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from faultline.components import Instance, StartFailed, Supervisor
from faultline.components.http import ask
from faultline.components.processes import run

pytestmark = pytest.mark.once

RULES = {
    "name": "shop",
    "rules": [
        {"record": "job:errors:max", "expr": "max(shop_errors) by (job)"},
        {"alert": "ManyErrors", "expr": "shop_errors > 5", "labels": {"severity": "page"}},
    ],
}


@asynccontextmanager
async def web(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """A web server on loopback that answers every request from its body; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(row[16:]) for row in head.splitlines() if row.lower().startswith(b"content-length: ")), 0)
        said = answer(await reader.readexactly(length))
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def asked(prometheus: Instance, expression: str) -> list[Any]:
    answer = await ask(f"{prometheus.url}/api/v1/query?query={quote(expression)}")
    assert answer.status == 200
    return json.loads(answer.body)["data"]["result"]


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(40):
        while not (found := await condition() if asyncio.iscoroutinefunction(condition) else condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


@pytest.mark.slow
async def test_an_alert_comes_from_a_scraped_number_to_the_webhook_and_is_resolved(tmp_path: Path) -> None:
    errors, told = [9], list[Any]()

    def heard(body: bytes) -> bytes:
        told.append(json.loads(body))
        return b""

    async with (
        web(lambda _: f"# TYPE shop_errors gauge\nshop_errors {errors[0]}\n".encode()) as shop,
        web(heard) as webhook,
        Supervisor(tmp_path) as supervisor,
    ):
        manager = await supervisor.start("alertmanager", settings={"webhook": f"http://{webhook}/"})
        settings = {"targets": {"shop": [shop]}, "groups": [RULES], "interval": 0.2, "alertmanagers": [manager]}
        prometheus = await supervisor.start("prometheus", settings=settings)

        async def recorded() -> list[Any]:
            return await asked(prometheus, "job:errors:max")

        (row,) = await until(recorded)
        assert row["metric"]["job"] == "shop"
        assert row["value"][1] == "9"
        await until(lambda: told)
        assert told[0]["status"] == "firing"
        assert told[0]["alerts"][0]["labels"]["severity"] == "page"

        errors[0] = 0
        await until(lambda: told[-1]["status"] == "resolved")


async def test_what_was_scraped_outlives_a_kill(tmp_path: Path) -> None:
    async with web(lambda _: b"shop_sold 7\n") as shop, Supervisor(tmp_path) as supervisor:
        settings = {"targets": {"shop": [shop]}, "interval": 0.2}
        prometheus = await supervisor.start("prometheus", settings=settings)

        async def scraped() -> list[Any]:
            return await asked(prometheus, "count_over_time(shop_sold[1h]) >= 2")

        await until(scraped)
        await prometheus.kill()
        (tmp_path / "prometheus-1" / "prometheus.yml").unlink()
        await prometheus.start()

        assert await asked(prometheus, "count_over_time(shop_sold[1h])")


async def test_promtool_comes_with_it_and_a_wrong_rule_is_told(tmp_path: Path) -> None:
    wrong = {"name": "shop", "rules": [{"record": "a", "expr": "max("}]}
    async with Supervisor(tmp_path) as supervisor:
        prometheus = await supervisor.start("prometheus", settings={"groups": [RULES]})
        promtool = Path(prometheus.record.program).with_name("promtool")
        rules = str(tmp_path / "prometheus-1" / "rules.yml")
        code, said = await run([str(promtool), "check", "rules", rules], folder=tmp_path, environment=os.environ)
        assert (code, "2 rules found" in said) == (0, True)
        with pytest.raises(StartFailed, match="parse error"):
            await supervisor.start("prometheus", settings={"groups": [wrong]})


async def test_the_pages_are_there(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        for name, page in (("prometheus", "/classic/graph"), ("alertmanager", "/")):
            server = await supervisor.start(name)
            answer = await ask(server.url + page)
            assert answer.status == 200
            assert b"<html" in answer.body
