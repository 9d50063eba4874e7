"""OpenSearch, by documents that it really finds."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest

from faultline.components import Instance, Supervisor
from faultline.components.http import ask
from faultline.components.opensearch import OpenSearch

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.timeout(600)]
SHOES = {
    "1": {"name": "running shoes", "colour": "red", "cents": 8900},
    "2": {"name": "shoe for a run in the rain", "colour": "blue", "cents": 12900},
    "3": {"name": "hat", "colour": "red", "cents": 1900},
}
STEMMED = {"properties": {"name": {"type": "text", "analyzer": "english"}, "colour": {"type": "keyword"}}}


async def send(node: Instance, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
    """What a node answers; it must be pleased."""
    content = json.dumps(body).encode() if body is not None else b""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    answer = await ask(f"{node.url}{path}", method=method, body=content, headers=headers)
    assert answer.status in {200, 201}, answer.body
    return json.loads(answer.body)


async def found(node: Instance, words: str) -> set[str]:
    answer = await send(node, "POST", "/shoes/_search", {"query": {"match": {"name": words}}})
    return {hit["_id"] for hit in answer["hits"]["hits"]}


async def fill(node: Instance, replicas: int) -> None:
    settings = {"number_of_shards": 1, "number_of_replicas": replicas, "unassigned.node_left.delayed_timeout": "0s"}
    await send(node, "PUT", "/shoes", {"settings": {"index": settings}, "mappings": STEMMED})
    for number, shoe in SHOES.items():
        await send(node, "PUT", f"/shoes/_doc/{number}?refresh=true", shoe)


async def until(node: Instance, nodes: int, status: str, within: float = 120) -> None:
    deadline = monotonic() + within
    health = None
    while health is None or (health["number_of_nodes"], health["status"]) != (nodes, status):
        assert monotonic() < deadline, health
        try:
            health = json.loads((await ask(f"{node.url}/_cluster/health?timeout=1s")).body)
            health["number_of_nodes"]
        except (OSError, KeyError):  # between two managers
            health = None
        await asyncio.sleep(0.02)


async def test_it_finds_by_stem_counts_by_facet_and_a_killed_node_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        node = await supervisor.start("opensearch")
        assert OpenSearch.memory / 4 < node.memory() < OpenSearch.memory * 2
        assert node.pid
        connections = psutil.Process(node.pid).net_connections()
        listening = {
            (row.laddr[0].removeprefix("::ffff:"), row.laddr[1]) for row in connections if row.status == "LISTEN"
        }
        assert listening == {("127.0.0.1", port) for port in node.ports.values()}

        await fill(node, replicas=0)

        assert await found(node, "run shoe") == {"1", "2"}
        facet = {"size": 0, "aggs": {"colour": {"terms": {"field": "colour"}}}}
        buckets = (await send(node, "POST", "/shoes/_search", facet))["aggregations"]["colour"]["buckets"]
        assert {bucket["key"]: bucket["doc_count"] for bucket in buckets} == {"red": 2, "blue": 1}

        await node.pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ask(node.url)
        await node.resume()

        await send(node, "PUT", "/shoes/_doc/4", {"name": "shoe of the last moment"})
        await node.kill()
        await node.restart()

        assert await found(node, "shoe") == {"1", "2", "4"}
        assert (await send(node, "GET", "/"))["version"]["number"] == "2.19.6"


async def test_three_nodes_are_a_cluster_that_outlives_its_manager(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        founder = await supervisor.start("opensearch")
        joining = {"joins": founder, "config": {"node.attr.zone": "b"}}
        others = await asyncio.gather(*(supervisor.start("opensearch", settings=joining) for _ in range(2)))
        await until(founder, 3, "green")
        await fill(founder, replicas=1)
        await until(founder, 3, "green")
        (manager,) = await send(others[0], "GET", "/_cat/cluster_manager?format=json")
        assert manager["node"] == founder.name

        await founder.kill()
        await until(others[0], 2, "green")
        await send(others[1], "PUT", "/shoes/_doc/4?refresh=true", {"name": "shoe"})
        await founder.restart()
        await until(others[0], 3, "green")

        for node in (founder, *others):
            assert await found(node, "shoe") == {"1", "2", "4"}
