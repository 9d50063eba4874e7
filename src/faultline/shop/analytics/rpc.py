"""What analytics asks of others: all that has happened, page by page, and the ledger of a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from faultline.patterns import Event
from faultline.shop.analytics.domain import ASKED, CATALOG, ORDERS, PAYMENT, Staged
from faultline.shop.analytics.events import HEARS, kept
from faultline.shop.contracts import Money, PaymentCaptured, PaymentRefunded, ProductCreated
from faultline.shop.contracts.envelope import understood
from faultline.shop.peers import Http

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    import aiohttp

WITHIN = 5.0  # seconds for a page


class _Happened(msgspec.Struct):
    id: str
    type: str
    subject: str
    sequence: int
    time: datetime
    data: dict[str, object]


class _Log(msgspec.Struct):
    items: list[_Happened]
    next: str | None


class _Transaction(msgspec.Struct):
    id: str
    order: str
    at: datetime
    amount: Money


class _Ledger(msgspec.Struct):
    items: list[_Transaction]
    next: str | None


class _Product(msgspec.Struct):
    sku: str
    name: str
    brand: str
    category: str
    version: int


class _Products(msgspec.Struct):
    items: list[_Product]
    next: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what a source has; `next`: where there may be more, None where there is not."""

    events: Sequence[Staged]
    next: str | None


class Sources:
    """Whose events are heard. Each call raises `OSError` or `NotTried` when there is no answer."""

    def __init__(self, session: aiohttp.ClientSession, peers: Mapping[str, tuple[str, ...]]) -> None:
        """`peers`: the addresses of orders, payment and the catalog."""
        self._peers = {name: Http(session, peers[name], within=WITHIN) for name in (ORDERS, PAYMENT, CATALOG)}

    async def page(self, source: str, after: str, *, key: bytes, now: datetime) -> Page:
        """What a source has behind that place; `key`: for pseudonyms."""
        if source == ORDERS:
            return await self._log(after, key)
        return await (self._ledger(after) if source == PAYMENT else self._products(after, now))

    async def moved(self, day: date) -> dict[str, int]:
        """What payment's ledger says of each order on that day, in cents, less what was given back."""
        found: dict[str, int] = {}
        path = f"/v1/transactions?day={day}"
        while path:
            page = msgspec.json.decode(await self._get(PAYMENT, path), type=_Ledger)
            for one in page.items:
                found[one.order] = found.get(one.order, 0) + one.amount.cents
            path = f"/v1/transactions?day={day}&after={quote(page.next)}" if page.next else ""
        return found

    async def _log(self, after: str, key: bytes) -> Page:
        page = msgspec.json.decode(await self._get(ORDERS, f"/v1/log?after={quote(after)}"), type=_Log)
        return Page([kept(understood(_event(one)), key) for one in page.items if one.type in HEARS], page.next)

    async def _ledger(self, after: str) -> Page:
        page = msgspec.json.decode(await self._get(PAYMENT, f"/v1/transactions?after={quote(after)}"), type=_Ledger)
        return Page([_transaction(one) for one in page.items], page.next)

    async def _products(self, after: str, now: datetime) -> Page:
        """As they are now: what they were before, the catalog does not know."""
        path = f"/v1/products{after}" if after else "/v1/products?limit=100"
        page = msgspec.json.decode(await self._get(CATALOG, path), type=_Products)
        return Page([_product(one, now) for one in page.items], page.next)

    async def _get(self, service: str, path: str) -> bytes:
        body = await self._peers[service].get(path)
        if body is None:
            raise ConnectionError(f"{service} has no {path}")
        return body


def _event(one: _Happened) -> Event:
    headers = {"time": one.time.isoformat(), "sequence": str(one.sequence)}
    return Event(id=one.id, type=one.type, subject=one.subject, data=one.data, headers=headers)


def _transaction(one: _Transaction) -> Staged:
    return Staged(
        id=f"{ASKED}{one.id}",
        source=PAYMENT,
        type=PaymentCaptured.type if one.amount.cents > 0 else PaymentRefunded.type,
        subject=one.order,
        sequence=1 if one.amount.cents > 0 else 2,
        at=one.at,
        customer=None,
        data={"transaction": one.id, "cents": one.amount.cents, "currency": one.amount.currency},
    )


def _product(one: _Product, now: datetime) -> Staged:
    return Staged(
        id=f"{ASKED}{one.sku}/{one.version}",
        source=CATALOG,
        type=ProductCreated.type,
        subject=one.sku,
        sequence=one.version,
        at=now,
        customer=None,
        data={"name": one.name, "brand": one.brand, "category": one.category},
    )
