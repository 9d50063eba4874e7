"""Zipkin, with spans that went in over HTTP."""

import json
from pathlib import Path
from time import monotonic, time

import psutil
import pytest

from faultline.components import Supervisor
from faultline.components.http import ask
from faultline.components.zipkin import Zipkin

pytestmark = [pytest.mark.once, pytest.mark.slow]

TRACE = "a" * 32
NOW = int(time() * 1_000_000)
ORDERS, PAYMENT = {"serviceName": "orders"}, {"serviceName": "payment"}
SPANS = [
    {"id": "b" * 16, "name": "post /orders", "kind": "SERVER", "localEndpoint": ORDERS},
    {"id": "c" * 16, "parentId": "b" * 16, "name": "charge", "kind": "CLIENT", "localEndpoint": ORDERS},
    {
        "id": "c" * 16,
        "parentId": "b" * 16,
        "name": "charge",
        "kind": "SERVER",
        "localEndpoint": PAYMENT,
        "shared": True,
    },
]


@pytest.mark.timeout(300)
async def test_spans_go_in_and_a_trace_and_who_calls_whom_come_out(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        zipkin = await supervisor.start("zipkin")
        assert Zipkin.memory / 4 < zipkin.memory() < Zipkin.memory * 2
        assert zipkin.pid
        connections = psutil.Process(zipkin.pid).net_connections()
        listening = {
            (row.laddr[0].removeprefix("::ffff:"), row.laddr[1]) for row in connections if row.status == "LISTEN"
        }
        assert listening == {("127.0.0.1", zipkin.port)}

        spans = json.dumps([{"traceId": TRACE, "timestamp": NOW, "duration": 5000, **span} for span in SPANS])
        headers = {"Content-Type": "application/json"}
        accepted = await ask(f"{zipkin.url}/api/v2/spans", method="POST", body=spans.encode(), headers=headers)
        assert accepted.status == 202

        trace = links = []
        deadline = monotonic() + 60
        while len(trace) < 3 or not links:
            assert monotonic() < deadline, (trace, links)
            trace = json.loads((await ask(f"{zipkin.url}/api/v2/trace/{TRACE}")).body or b"[]")
            until = f"endTs={NOW // 1000 + 60_000}&lookback=86400000"
            links = json.loads((await ask(f"{zipkin.url}/api/v2/dependencies?{until}")).body)
        assert {span["localEndpoint"]["serviceName"] for span in trace} == {"orders", "payment"}
        assert links == [{"parent": "orders", "child": "payment", "callCount": 1}]
        assert b"<html" in (await ask(f"{zipkin.url}/zipkin/")).body.lower()
