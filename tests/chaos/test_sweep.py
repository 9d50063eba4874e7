"""The sweep on a small scale: some edges of a checkout, one death each."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.chaos.conftest import Shop
from tests.chaos.test_invariants import plenty

from faultline.chaos.buyers import Bought
from faultline.chaos.sweep import Edge, Side, Sweep, read

pytestmark = [
    pytest.mark.once,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.xdist_group("chaos"),
]


def buying(shop: Shop) -> Callable[[str], Awaitable[Bought]]:
    buyer = shop.buyer("sweep")
    return lambda key: buyer.buy({plenty(): 1}, key=key, within=30)


async def test_who_is_killed_at_an_edge_of_a_checkout_costs_nothing_but_time(shop_: Shop, tmp_path: Path) -> None:
    journal = tmp_path / "sweep.jsonl"
    begun = {one.name: one.starts for one in shop_.rig.processes()}
    sweep = Sweep(shop_.rig, shop_.books, journal)
    async with sweep.watching():
        runs = [run async for run in sweep.runs(buying(shop_), at_most=3)]

        asked = "GET /v1/products/…"
        assert [run.edge for run in runs] == [
            Edge("orders", "catalog", asked, 1, Side.BEFORE),
            Edge("orders", "catalog", asked, 1, Side.AFTER),
            Edge("orders", "postgres", "COMMIT of INSERT INTO events", 1, Side.BEFORE),
        ]
        assert [(run.state, run.status, run.evidence) for run in runs] == [("held", "confirmed", [])] * 3
        deaths = {one.name: one.starts - begun[one.name] for one in shop_.rig.processes()}
        assert {name for name, count in deaths.items() if count} <= {"orders-1", "orders-2"}
        assert sum(deaths.values()) == 3

        again = [run async for run in sweep.runs(buying(shop_), at_most=3)]
        assert (again, read(journal)) == ([], runs)
