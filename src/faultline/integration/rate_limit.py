"""redis/06: two gateways with the learner's limiter in them, their clocks apart, and a customer who asks too often."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING

from faultline.components import ports
from faultline.components.http import ask
from faultline.integration.stage import Finding, Report
from faultline.shop.topology import SERVICES, Replica
from faultline.testbed import Broken, History, Operation, Outcome, Vacuous, any_window_rate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from faultline.components.http import Answer
    from faultline.integration.stage import Stage

LIMIT, PER = 20, 3.0  # requests in any window of so many seconds
RATE, STEADY = 20.0, 6.0  # requests a second, three times as many as may pass, for so many seconds
HEAPS = (0.9 * PER, 1.1 * PER, *((2 + n * 2 / 3) * PER for n in range(5)))
"""Seconds after the first request: when as many come at once as may pass.

A limiter that counts from the first request lets the first two heaps through. One that counts by the clock lets two of
the others through, whenever its windows begin: of three windows in a row, two have their first heaps 2/3 PER apart.
"""
WHEN = (
    0.0,
    *(when for when in HEAPS for _ in range(LIMIT)),
    *(HEAPS[-1] + 2 / 3 * PER + n / RATE for n in range(int(RATE * STEADY))),
)
APART = 90.0  # seconds between the gateways' clocks
QUICK = 2.0  # seconds for an answer while Redis stands still
AGAIN = 5.0  # seconds until hits are counted again
AHEAD = f"""
import runpy, sys
from faultline.testbed.wall_clock import shift_wall_clock
shift_wall_clock({APART})
sys.argv[0] = "faultline.shop"
runpy.run_module("faultline.shop", run_name="__main__", alter_sys=True)
"""


async def proof(stage: Stage, file: Path) -> Report:
    """At most so many pass in any window, wherever they are asked; without Redis, all."""
    setting = {"SHOP_RATE_LIMITER": str(file), "SHOP_RATE_LIMIT": str(LIMIT), "SHOP_RATE_SECONDS": str(PER)}
    second = Replica(SERVICES["gateway"], 2)
    stage.say(f"starting catalog, and two gateways with {file.name} in them, their clocks {APART:.0f} s apart ...")
    async with (
        stage.services("catalog", "gateway", setting=setting) as running,
        stage.one_more(second, "-c", AHEAD, setting=setting) as (port, _),
    ):
        customers = _Customers([running["gateway-1"].port, port])
        stage.say(
            f"a customer asks {len(WHEN)} times in {WHEN[-1]:.0f} s, in heaps; {LIMIT} in {PER:.0f} s may pass ..."
        )
        findings = await _too_often(customers)
        findings.append(await _waits_as_told(customers))
        stage.say("Redis stands still ...")
        findings += await _without_redis(stage, customers)
    return Report(findings, f"{LIMIT} in any {PER:.0f} s, at two gateways: they stand on your limiter.")


class _Customers:
    """They ask the gateways in turn."""

    def __init__(self, gateways: Sequence[int]) -> None:
        self._ports = cycle(gateways)
        self.history = History()

    async def ask(self, customer: str) -> tuple[Operation, Answer]:
        """Look at the products; an `Operation` is `OK` if that passed."""
        port = next(self._ports)
        asked = Operation(customer, f"GET at port {port}", self.history.now())
        self.history.entries.append(asked)
        answer = await ask(
            f"http://{ports.HOST}:{port}/api/v1/products?limit=1", headers={"X-Guest": customer.ljust(40, "-")}
        )
        asked.end = self.history.now()
        asked.outcome = Outcome.OK if answer.status == 200 else Outcome.FAILED
        asked.value = answer.status
        return asked, answer


async def _too_often(customers: _Customers) -> list[Finding]:
    """Asked when it is time, whatever becomes of the others; meanwhile somebody else asks, too."""
    began = customers.history.now()

    async def at(when: float, customer: str) -> Operation:
        await asyncio.sleep(began + when - customers.history.now())
        return (await customers.ask(customer))[0]

    other, *seen = await asyncio.gather(at(WHEN[-1] - PER / 2, "patient"), *(at(when, "greedy") for when in WHEN))
    admitted = [one for one in seen if one.outcome is Outcome.OK]
    strange = sorted({one.value for one in seen} - {200, 429})
    room = _room(seen)
    return [
        Finding(f"no more than {LIMIT} of a customer's requests pass in any {PER:.0f} s", _over(admitted)),
        Finding(
            "as soon as there is room, they pass",
            f"{len(admitted)} of {len(seen)} passed; there was room for {room}" if len(admitted) < room else "",
        ),
        Finding("whoever is refused is told so", f"the gateways answered {strange}" if strange else ""),
        Finding("others are not held up", "" if other.value == 200 else f"they got {other.value}"),
    ]


def _room(asked: Sequence[Operation]) -> int:
    """How many of these an exact limiter admits at least, whenever between call and answer it sees each."""
    admitted: list[float] = []
    for one in sorted(asked, key=lambda one: one.start):
        if len(admitted) < LIMIT or sorted(admitted)[-LIMIT] + PER <= one.start:
            admitted.append(one.end or one.start)
    return len(admitted)


def _over(admitted: Sequence[Operation]) -> str:
    try:
        any_window_rate(admitted, limit=LIMIT, per=PER, at_least=LIMIT + 1)
    except (Broken, Vacuous) as error:
        return str(error)
    return ""


async def _waits_as_told(customers: _Customers) -> Finding:
    promise = "who waits as long as Retry-After says, passes"
    heap = await asyncio.gather(*(customers.ask("obedient") for _ in range(2 * LIMIT)))
    waits = [float(answer.headers["retry-after"]) for _, answer in heap if answer.status == 429]
    if not waits:
        return Finding(promise, f"nobody was refused, of {2 * LIMIT} at once")
    if max(waits) > PER + 1:  # whole seconds
        return Finding(promise, f"it says {max(waits):.0f} s, of a window of {PER:.0f}")
    await asyncio.sleep(max(waits))
    _, again = await customers.ask("obedient")
    return Finding(promise, "" if again.status == 200 else f"after these {max(waits):.0f} s it was {again.status}")


async def _without_redis(stage: Stage, customers: _Customers) -> list[Finding]:
    """A shop that does not count is still a shop."""
    redis = stage.server("redis")
    await redis.pause()
    try:
        asked = [await customers.ask("lucky") for _ in range(2 * LIMIT)]
    finally:
        await redis.resume()
    slow = max(one.took for one, _ in asked)
    refused = sum(answer.status != 200 for _, answer in asked)
    against = f"{refused} of {len(asked)} did not" if refused else f"one took {slow:.2f} s" if slow > QUICK else ""
    counts = Finding("once it answers again, requests are counted", f"nobody was refused for {AGAIN:.0f} s")
    until, number = customers.history.now() + AGAIN, 0
    while counts.against and customers.history.now() < until:
        number += 1
        heap = await asyncio.gather(*(customers.ask(f"again-{number}") for _ in range(2 * LIMIT)))
        if any(answer.status == 429 for _, answer in heap):
            counts = Finding(counts.promise)
    return [Finding(f"while Redis stands still, everybody passes within {QUICK:.0f} s", against), counts]
