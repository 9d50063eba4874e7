"""Clients that buy, and write down what they were told: as stubborn as a browser that has a key for its order."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from time import monotonic
from typing import TYPE_CHECKING, Any

from faultline.chaos.errors import NotReached
from faultline.components.http import Answer, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from faultline.chaos.history import History

PATIENCE = 5.0  # seconds for one answer
AGAIN = 0.1  # seconds between two requests
ENDS = ("confirmed", "cancelled", "returned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """How an order ended for its buyer."""

    order: str
    status: str
    reason: str
    seconds: float
    """From the first request to the answer that says so."""


def guest(secret: str) -> str:
    """Who the shop takes the guest for that has this secret."""
    return f"guest-{hashlib.sha256(secret.encode()).hexdigest()[:32]}"


class Doors:
    """One user at several addresses of the same thing: the next one whenever there is no good answer."""

    def __init__(self, user: str, urls: Sequence[str], history: History, *, secret: str = "") -> None:
        """`urls`: what comes before `/v1/…`, of each replica, or of the gateway for the guest of that `secret`."""
        self.user = user
        self._who = {"X-Guest": secret} if secret else {"X-User": user}
        self.history = history
        self._urls: Iterator[str] = cycle(urls)
        self._url = next(self._urls)

    async def ask(self, path: str, body: object = None, *, method: str = "GET", key: str = "") -> Answer | None:
        """The answer; None if there was none. `key`: what makes repeating it safe."""
        headers = {**self._who, "Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        content = json.dumps(body).encode() if body is not None else b""
        answer = None
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                answer = await ask(f"{self._url}{path}", method=method, body=content, headers=headers)
        if answer is None or answer.status >= 500:
            self._url = next(self._urls)
        return answer


class Buyer:
    """Orders, and looks until the order has come to an end."""

    def __init__(self, user: str, urls: Sequence[str], history: History, *, secret: str = "") -> None:
        """`urls`: what comes before `/v1/orders`; `secret` as `Doors` takes it."""
        self.user = user
        self._doors = Doors(user, urls, history, secret=secret)
        self._history = history

    async def buy(
        self, lines: Mapping[str, int], *, key: str, within: float, told: Callable[[str, str], None] = lambda *_: None
    ) -> Bought:
        """Place the order, and look until it has come to an end.

        `within`: seconds for all of it. `told` hears each status as it is seen, and the order's id. Raises `NotReached`
        if it takes longer, or the order is refused for good.
        """
        began = monotonic()
        until = began + within
        order = ""
        while not order:
            order = await self._place(lines, key)
            await self._pause(until, f"key {key} is not placed", done=bool(order))
        return await self._seen_through(order, began, until, told)

    async def give_back(
        self, order: str, *, within: float, told: Callable[[str, str], None] = lambda *_: None
    ) -> Bought:
        """Ask for the return of a confirmed order, and look until it has come to its end; otherwise as `buy`."""
        began = monotonic()
        until = began + within
        while not await self._ask_back(order):
            await self._pause(until, f"the return of order {order} is not taken on", done=False)
        return await self._seen_through(order, began, until, told)

    async def _seen_through(self, order: str, began: float, until: float, told: Callable[[str, str], None]) -> Bought:
        seen = ""
        while True:
            body = await self._see(order)
            if body and body["status"] != seen:
                seen = body["status"]
                told(seen, order)
            if body and seen in ENDS:
                return Bought(order=order, status=seen, reason=body["reason"], seconds=monotonic() - began)
            await self._pause(until, f"order {order} is {seen or 'not to be seen'}", done=False)

    async def _ask_back(self, order: str) -> bool:
        """Whether its return is asked for; not where asking again is right."""
        with self._history.operation(self.user, "give-back", order=order) as operation:
            answer = await self._doors.ask(f"/v1/orders/{order}/return", method="PUT")
            if answer is None or answer.status >= 500:
                operation.unknown(status=answer.status if answer else 0)
                return False
            if answer.status != 202:
                operation.failed(status=answer.status)
                raise NotReached(f"the return of order {order} was refused: {answer.status} {answer.body[:200]!r}")
            operation.ok()
            return True

    async def _place(self, lines: Mapping[str, int], key: str) -> str:
        """The order's id, or nothing where asking again is right."""
        wanted = {"lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines.items()]}
        with self._history.operation(self.user, "place", key=key, lines=dict(lines)) as operation:
            answer = await self._doors.ask("/v1/orders", wanted, method="POST", key=key)
            if answer is None or answer.status >= 500:
                operation.unknown(status=answer.status if answer else 0)
                return ""
            if answer.status != 202:
                operation.failed(status=answer.status)
                raise NotReached(f"the order of key {key} was refused: {answer.status} {answer.body[:200]!r}")
            order = str(json.loads(answer.body)["id"])
            operation.ok(id=order)
            return order

    async def _see(self, order: str) -> dict[str, Any] | None:
        with self._history.operation(self.user, "see", order=order) as operation:
            answer = await self._doors.ask(f"/v1/orders/{order}")
            if answer is None or answer.status >= 500:
                return None
            if answer.status != 200:
                operation.failed(status=answer.status)
                return None
            body: dict[str, Any] = json.loads(answer.body)
            operation.ok(status=body["status"])
            return body

    async def _pause(self, until: float, still: str, *, done: bool) -> None:
        if done:
            return
        if monotonic() > until:
            raise NotReached(f"{still}, and time is up")
        await asyncio.sleep(AGAIN)


class Filler:
    """Puts things into its user's cart, and looks at it."""

    def __init__(self, user: str, urls: Sequence[str], history: History) -> None:
        """`urls`: what comes before `/v1/cart`."""
        self._doors = Doors(user, urls, history)
        self._history = history

    async def put(self, sku: str, quantity: int) -> bool:
        """Have so many of it there; whether that is known to have happened."""
        with self._history.operation(self._doors.user, "cart-put", sku=sku, quantity=quantity) as operation:
            answer = await self._doors.ask(f"/v1/cart/lines/{sku}", {"quantity": quantity}, method="PUT")
            if answer and answer.status == 200:
                operation.ok()
            elif answer and answer.status < 500:
                operation.failed(status=answer.status)
            return answer is not None and answer.status == 200

    async def see(self) -> dict[str, int] | None:
        """How many of each product; None if there was no answer."""
        with self._history.operation(self._doors.user, "cart-see") as operation:
            answer = await self._doors.ask("/v1/cart")
            if answer is None or answer.status != 200:
                return None
            lines = {line["sku"]: line["quantity"] for line in json.loads(answer.body)["lines"]}
            operation.ok(lines=lines)
            return lines
