"""Envoy, before real upstreams."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from faultline.components import StartFailed, Supervisor
from faultline.components.envoy import Envoy, cluster
from faultline.components.http import ask


def routed(prefix: str, to: str, **route: object) -> dict[str, object]:
    return {"match": {"prefix": prefix}, "route": {"cluster": to, **route}}


def hosts(*routes: dict[str, object]) -> list[dict[str, object]]:
    return [{"name": "shop", "domains": ["*"], "routes": list(routes)}]


async def test_it_routes_by_path_and_a_retry_hides_a_failure(tmp_path: Path, upstream: Callable[[str], Any]) -> None:
    orders, payment = upstream("orders"), upstream("payment")
    settings = {
        "clusters": [cluster("orders", orders), cluster("payment", payment)],
        "virtual_hosts": hosts(
            routed("/pay", "payment", retry_policy={"retry_on": "5xx", "num_retries": 2}), routed("/", "orders")
        ),
    }
    async with Supervisor(tmp_path) as supervisor:
        envoy = await supervisor.start("envoy", settings=settings)
        assert orders.paths == payment.paths == []
        admin = f"http://127.0.0.1:{envoy.ports['admin']}"
        assert (await ask(f"{admin}/ready")).status == 200
        assert json.loads((await ask(f"{envoy.url}/order/1")).body) == {"name": "orders"}
        payment.failures = orders.failures = 2

        hidden, seen = await ask(f"{envoy.url}/pay"), await ask(f"{envoy.url}/order/2")

        assert (hidden.status, seen.status) == (200, 503)
        assert payment.paths == ["/pay"] * 3
        stats = await ask(f"{admin}/stats?filter=cluster.payment.upstream_rq_retry$")
        assert stats.body == b"cluster.payment.upstream_rq_retry: 2\n"


async def test_it_serves_on_loopback_only_and_a_restart_keeps_ports(
    tmp_path: Path, upstream: Callable[[str], Any]
) -> None:
    settings = {"clusters": [cluster("orders", upstream("orders"))], "virtual_hosts": hosts(routed("/", "orders"))}
    async with Supervisor(tmp_path) as supervisor:
        first = await supervisor.start("envoy", settings=settings)
        second = await supervisor.start("envoy", settings=settings)
        assert Envoy.memory / 4 < first.memory() < Envoy.memory * 2
        assert first.pid
        listening = {row.laddr for row in psutil.Process(first.pid).net_connections() if row.status == "LISTEN"}
        assert listening == {("127.0.0.1", port) for port in first.ports.values()}
        before = dict(first.ports)

        await first.kill()
        assert (await ask(second.url)).status == 200
        await first.restart()

        assert first.ports == before
        assert (await ask(first.url)).status == 200


async def test_without_settings_it_answers_404(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        assert (await ask((await supervisor.start("envoy")).url)).status == 404


async def test_what_envoy_does_not_understand_is_said(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StartFailed, match=r"(?s)exited with 1.*domainz"):
            await supervisor.start("envoy", settings={"virtual_hosts": [{"name": "shop", "domainz": ["*"]}]})
