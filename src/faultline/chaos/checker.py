"""All invariants over one shop: wait until it is quiet, then check each."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from faultline.chaos.errors import NotQuiet, Unreadable
from faultline.chaos.finding import Verdict, Violated
from faultline.chaos.invariants.carts import CARTS
from faultline.chaos.invariants.convergence import CONVERGENCE
from faultline.chaos.invariants.delivery import DELIVERY
from faultline.chaos.invariants.durability import DURABILITY
from faultline.chaos.invariants.families import FAMILIES
from faultline.chaos.invariants.fencing import FENCING
from faultline.chaos.invariants.ledger import LEDGER
from faultline.chaos.invariants.liveness import LIVENESS
from faultline.chaos.invariants.oversold import OVERSELL
from faultline.chaos.invariants.paid import PAID
from faultline.chaos.invariants.sales import SOLD
from faultline.chaos.invariants.stock import STOCK
from faultline.chaos.invariants.streams import STREAMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faultline.chaos.books import Books
    from faultline.chaos.finding import Invariant

INVARIANTS = {
    one.number: one
    for one in (
        STOCK,
        OVERSELL,
        LEDGER,
        PAID,
        DURABILITY,
        LIVENESS,
        STREAMS,
        DELIVERY,
        CONVERGENCE,
        CARTS,
        FENCING,
        FAMILIES,
        SOLD,
    )
}
MOVING = (STREAMS, LEDGER, LIVENESS, SOLD, DELIVERY, CONVERGENCE)
"""Those that are broken for a moment while the shop works, and hold as soon as it is quiet."""
LIMIT = 30.0  # seconds in which a healed shop comes to rest
LOOK_EVERY = 0.1


async def check(books: Books, invariants: Iterable[Invariant] = tuple(INVARIANTS.values())) -> list[Verdict]:
    """What there is to say of each; of a shop that is not quiet, some are broken only for the moment."""
    return [await _verdict(books, one) for one in invariants]


async def quiet(books: Books, *, within: float = LIMIT) -> float:
    """Wait until nothing moves any more; the seconds that it took. Raises `NotQuiet`, with what still does.

    What is parked, or has stopped for good, is at rest only if it stays as it is until `within` is over.
    """
    began = monotonic()
    while still := await _moving(books):
        if monotonic() - began > within:
            raise NotQuiet(f"after {within:.0f} s: {still}")
        await asyncio.sleep(LOOK_EVERY)
    return monotonic() - began


async def _moving(books: Books) -> str:
    """The first thing that still moves; what is dear to ask for, as the broker's queues, is asked for last."""
    for invariant in MOVING:
        with suppress(Unreadable):  # `check` will say so
            async for finding in invariant.check(books):
                if isinstance(finding, Violated):
                    return f"{invariant.number}: {finding.evidence}"
    return ""


async def _verdict(books: Books, invariant: Invariant) -> Verdict:
    try:
        return Verdict(invariant, tuple([finding async for finding in invariant.check(books)]))
    except Unreadable as error:
        return Verdict(invariant, unreadable=str(error))
