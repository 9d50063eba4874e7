"""One order walked through the running shop, told as it happens."""

from __future__ import annotations

import asyncio
import json
import secrets
from time import monotonic
from typing import TYPE_CHECKING

from faultline.chaos import place, witness
from faultline.chaos.buyers import Buyer, guest
from faultline.chaos.errors import NotReached
from faultline.chaos.history import History
from faultline.components import ports
from faultline.components.http import ask
from faultline.components.records import read
from faultline.engine import shop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faultline.chaos.buyers import Bought

WITHIN = 60.0  # seconds for the order to come to an end
AFTERWARDS = 0.5  # seconds for the last events to come in


async def made(folder: Path, *, sku: str | None, quantity: int, told: Callable[[float, str], None]) -> Bought:
    """Buy from the shop that runs in `folder`; `told` hears the seconds since the request, and what happened.

    As a guest, through the gateway. Raises `NotReached` if the order is refused or comes to no end.
    """
    broker = place.broker(next(record for record in read(folder) if record.component == "rabbitmq"))
    chosen = sku or await _in_stock(folder, quantity)
    story = _Story(told)
    secret = secrets.token_urlsafe()
    doors = [f"{url}/api" for url in _urls(folder, "gateway")]
    buyer = Buyer(guest(secret), doors, History(folder / place.HISTORY), secret=secret)
    async with witness.hearing(broker, story.heard):
        story.begin(f"a guest orders {quantity} of {chosen}")
        bought = await buyer.buy({chosen: quantity}, key=secrets.token_hex(8), within=WITHIN, told=story.answered)
        await asyncio.sleep(AFTERWARDS)
    return bought


class _Story:
    """Tells of one order, whose id comes with the first answer: an event may overtake that."""

    def __init__(self, told: Callable[[float, str], None]) -> None:
        self._told = told
        self._began = monotonic()
        self._order = ""
        self._early: list[tuple[float, str, str]] = []

    def begin(self, what: str) -> None:
        """The request goes out now."""
        self._began = monotonic()
        self._told(0.0, what)

    def heard(self, type_: str, subject: str) -> None:
        """An event of some order."""
        seconds = monotonic() - self._began
        if not self._order:
            self._early.append((seconds, type_, subject))
        elif subject == self._order:
            self._told(seconds, type_)

    def answered(self, status: str, order: str) -> None:
        """What the buyer is told of its own."""
        self._order = order
        early, self._early = self._early, []
        for seconds, type_, subject in early:
            if subject == order:
                self._told(seconds, type_)
        self._told(monotonic() - self._began, f"order {order} is {status}")


def _urls(folder: Path, service: str) -> list[str]:
    running = shop.read(folder / "services")
    return [f"http://{ports.HOST}:{one.port}" for one in running if one.name.rpartition("-")[0] == service]


async def _in_stock(folder: Path, quantity: int) -> str:
    """A product of which there is so much."""
    answer = await ask(f"{_urls(folder, 'catalog')[0]}/v1/products?limit=100")
    for item in json.loads(answer.body)["items"]:
        stock = await ask(f"{_urls(folder, 'inventory')[0]}/v1/stock/{item['sku']}")
        if stock.status == 200 and json.loads(stock.body)["available"] >= quantity:
            return str(item["sku"])
    raise NotReached(f"no product is in stock {quantity} times; ./lab shop seed puts some there")
