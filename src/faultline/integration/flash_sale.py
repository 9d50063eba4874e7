"""redis/05: inventory with the learner's lock in it sells 50 units to 500 buyers, and one process stands still."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

import msgspec

from faultline.chaos import checker, place
from faultline.components import ports
from faultline.components.http import ask
from faultline.components.processes import tied
from faultline.components.proxy import FaultProxy, saying
from faultline.components.proxy_errors import NotReached
from faultline.integration.stage import Finding, NotProven, Report
from faultline.shop.topology import SERVICES, Replica

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from faultline.integration.stage import Stage

UNITS, BUYERS, SKU = 50, 500, "sneaker"
LEASE = 2.0  # seconds for which inventory takes the lock
SAFE = ("I1", "I2", "I11")
"""What the lock is for: the counters fit the movements, no unit is sold twice, no token goes back."""


class _Told(msgspec.Struct):
    """What the buyers were told, as `faultline.shop.rush` prints it."""

    orders: list[str]
    sold_by: dict[str, int]
    asked_again: int


async def proof(stage: Stage, file: Path) -> Report:
    """The write of one of three processes is on its way for longer than its lease lasts. Raises `NotProven`."""
    postgres = stage.server("postgres")
    setting = {"SHOP_LOCK": str(file)}
    stage.say(f"starting catalog, and three processes of inventory with {file.name} in them ...")
    async with FaultProxy(postgres.host, postgres.port, protocol="postgres") as proxy:
        moved = {"postgres": postgres.url.replace(f":{postgres.port}/", f":{proxy.port}/")}
        async with stage.services("catalog", "inventory", setting=setting, moved=moved) as running:
            two = [running["inventory-1"], running["inventory-2"]]
            third = Replica(SERVICES["inventory"], len(two) + 1)
            async with stage.one_more(third, setting=setting, moved=moved) as (_, rpc_port):
                addresses = [f"{ports.HOST}:{port}" for port in (*(one.rpc_port for one in two), rpc_port)]
                told = await _rush(stage, proxy, addresses, f"http://{ports.HOST}:{two[0].port}/v1")
    return await _judged(stage, told)


async def _rush(stage: Stage, proxy: FaultProxy, addresses: Sequence[str], base: str) -> _Told:
    """What the buyers were told."""
    await _put(f"{base}/stock/{SKU}/receipts/monday", {"quantity": UNITS})
    await _put(f"{base}/flash-sales/{SKU}", {"units": UNITS})
    hold = proxy.hold(saying("UPDATE", "flash_sale", "SET sold"))
    stage.say(f"{BUYERS} buyers at {len(addresses)} processes for {UNITS} units ...")
    buyers = await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-m", "faultline.shop.rush", SKU, str(BUYERS), *addresses], os.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        try:
            await hold.reached(20)
        except NotReached as error:
            raise NotProven("nobody has sold anything within 20 s: does the lock let anyone in?") from error
        late = 1.5 * LEASE
        stage.say(f"one has its lease, and its write is on its way for {late:.0f} s; the lease lasts {LEASE:.0f} ...")
        await asyncio.sleep(late)  # the lease is the time that is meant to pass
        hold.release()
        printed, complaint = await buyers.communicate()
    finally:
        if buyers.returncode is None:
            buyers.kill()
            await buyers.wait()
    if buyers.returncode:
        last = (complaint.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        raise NotProven(f"the buyers did not come to an end within 60 s: {last}")
    return msgspec.json.decode(printed, type=_Told)


async def _judged(stage: Stage, told: _Told) -> Report:
    stage.say(f"sold by each process: {', '.join(map(str, told.sold_by.values()))}; asked again: {told.asked_again}")
    count = len(told.orders)
    against = f"{count} buyers were told that they have one of {UNITS}" if count != UNITS else ""
    findings = [Finding(f"{UNITS} of {BUYERS} buyers have bought", against)]
    async with place.books(stage.folder) as books:
        verdicts = await checker.check(books, [checker.INVARIANTS[number] for number in SAFE])
    for verdict in verdicts:
        seen = "; ".join([*verdict.violated, verdict.unreadable] if verdict.unreadable else verdict.violated)
        findings.append(Finding(verdict.invariant.promise, f"{verdict.invariant.number}: {seen}" if seen else ""))
    return Report(findings, f"{UNITS} units, {UNITS} orders: the sale stands on your lock.")


async def _put(url: str, body: object) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await ask(url, method="PUT", body=json.dumps(body).encode(), headers=headers)
    if answer.status != 200:
        raise NotProven(f"PUT {url}: {answer.status} {answer.body[:200]!r}")
