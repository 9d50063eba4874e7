"""nginx, before real upstreams."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from faultline.components import StartFailed, Supervisor
from faultline.components.http import ask
from faultline.components.nginx import Nginx


async def test_an_upstream_that_fails_is_left_out_and_nobody_notices(
    tmp_path: Path, upstream: Callable[[str], Any]
) -> None:
    good, bad = upstream("good"), upstream("bad")
    bad.failures = 1000
    servers = f"server 127.0.0.1:{good.port}; server 127.0.0.1:{bad.port} max_fails=2 fail_timeout=1h;"
    proxied = "location / { proxy_pass http://shop; proxy_next_upstream error timeout http_503; }"
    async with Supervisor(tmp_path) as supervisor:
        nginx = await supervisor.start("nginx", settings={"http": f"upstream shop {{ {servers} }}", "server": proxied})
        assert good.paths == bad.paths == []

        answers = [await ask(f"{nginx.url}/{number}") for number in range(20)]

        assert Counter(answer.status for answer in answers) == {200: 20}
        assert {json.loads(answer.body)["name"] for answer in answers} == {"good"}
        assert len(good.paths) == 20
        assert len(bad.paths) <= 2


async def test_it_serves_on_loopback_only_and_a_paused_one_is_silent(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        nginx = await supervisor.start("nginx")
        assert Nginx.memory / 4 < nginx.memory() < Nginx.memory * 2
        assert nginx.pid
        listening = {row.laddr for row in psutil.Process(nginx.pid).net_connections() if row.status == "LISTEN"}
        assert listening == {("127.0.0.1", nginx.port)}
        assert len(nginx.record.kin.members()) == 1

        await nginx.pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ask(nginx.url)
        await nginx.resume()
        assert (await ask(nginx.url)).status == 404

        await nginx.kill()
        await nginx.restart()
        assert (await ask(nginx.url)).headers["server"].startswith("nginx")


async def test_a_mistake_in_the_settings_is_said_in_nginxs_words(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StartFailed, match=r'(?s)unknown directive "proxy_pas"'):
            await supervisor.start("nginx", settings={"server": "location / { proxy_pas http://shop; }"})
