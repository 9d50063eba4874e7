"""What the search hears; it says nothing.

Many are heard at once, and written together: while one batch is on its way the next one gathers.

What moves stock is a hint. Those events have no version of a product's level, and which of two is newer nobody could
tell; so the level itself is asked for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faultline.patterns import Away, NotUnderstood
from faultline.shop.contracts import (
    PriceChanged,
    ProductChanged,
    ProductCreated,
    ProductRetired,
    ReservationExpired,
    ReservationReleased,
    StockReceived,
    StockReserved,
    StockReturned,
    StockSetAside,
)
from faultline.shop.search.cluster import Refused
from faultline.shop.search.domain import Counted, Described, Details, Gone, Priced

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from faultline.shop.contracts import Said
    from faultline.shop.messages import Handler
    from faultline.shop.search.domain import News
    from faultline.shop.search.rpc import Inventory
    from faultline.shop.search.store import Decide, Index

SAYS = ()
HEARS = (
    ProductCreated.type,
    ProductChanged.type,
    PriceChanged.type,
    ProductRetired.type,
    StockReceived.type,
    StockReserved.type,
    ReservationReleased.type,
    ReservationExpired.type,
    StockReturned.type,
    StockSetAside.type,
)
"""A reservation that is committed moves nothing that could be bought: it was taken out when it was reserved."""
AT_ONCE = 100  # events that may wait to be written together


@dataclass(frozen=True, slots=True)
class Told:
    """What one event says, and who waits for it to be written."""

    news: Mapping[str, Sequence[News]]
    counted: Sequence[str]
    written: asyncio.Future[None]


class Intake:
    """Writes what is told, together with what others tell meanwhile."""

    def __init__(self, index: Index, inventory: Inventory) -> None:
        self._index, self._inventory = index, inventory
        self._waiting: list[Told] = []
        self._one_batch = asyncio.Lock()

    async def take(self, news: Mapping[str, Sequence[News]], *, counted: Sequence[str] = ()) -> None:
        """Returns once it is written, with the level that there is now of each product that is to be counted.

        Raises `ConnectionError` where OpenSearch or inventory does not answer, and `Refused`.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(lambda one: one.cancelled() or one.exception())  # who waits may have been cancelled
        self._waiting.append(Told(news, counted, written))
        async with self._one_batch:
            if not written.done():
                batch, self._waiting = self._waiting, []
                await self._written(batch)
        await written

    async def _written(self, batch: Sequence[Told]) -> None:
        try:
            await self._write(batch)
        except Refused as error:
            if len(batch) == 1:
                batch[0].written.set_exception(error)
                return
            for one in batch:  # one of them cannot be written: the others are not to blame
                await self._written([one])
        except OSError as error:
            plain = [one for one in batch if not one.counted]
            if not 0 < len(plain) < len(batch):
                _end(batch, error)
                return
            _end([one for one in batch if one.counted], error)  # if it is inventory that is away, only these wait
            await self._written(plain)
        except BaseException as error:
            _end(batch, ConnectionError(f"broken off: {error!r}"))
            raise
        else:
            _end(batch, None)

    async def _write(self, batch: Sequence[Told]) -> None:
        heard: dict[str, list[News]] = defaultdict(list)
        for one in batch:
            for sku, news in one.news.items():
                heard[sku] += news
        to_count = {sku for one in batch for sku in one.counted}
        await self._index.write(
            [*dict.fromkeys([*heard, *sorted(to_count)])], deciding(heard, to_count, self._inventory)
        )


def deciding(news: Mapping[str, Sequence[News]], to_count: Collection[str], inventory: Inventory) -> Decide:
    """These news, and of those that are to be counted the level of when it is asked."""

    async def decide(skus: Sequence[str]) -> dict[str, Sequence[News]]:
        wanted = [sku for sku in skus if sku in to_count]
        levels = await inventory.levels(wanted)
        return {sku: [*news.get(sku, ()), *([Counted(levels.get(sku, 0))] if sku in to_count else ())] for sku in skus}

    return decide


def _end(batch: Sequence[Told], error: OSError | None) -> None:
    for one in batch:
        if not one.written.done():
            one.written.set_result(None) if error is None else one.written.set_exception(error)


def hears(intake: Intake) -> Mapping[str, Handler]:
    """Hearing any of these twice is hearing it once, in any order. While OpenSearch or inventory is gone they wait."""

    async def take(event: Said) -> None:
        news, counted = _told(event)
        try:
            await intake.take(news, counted=counted)
        except OSError as error:
            raise Away(str(error)) from error
        except Refused as error:
            raise NotUnderstood(f"no document can be that: {error}") from error

    return dict.fromkeys(HEARS, take)


def _told(event: Said) -> tuple[dict[str, Sequence[News]], tuple[str, ...]]:
    """What is new of which product, and of which the stock has moved."""
    match event.data:
        case ProductCreated() | ProductChanged() as told:
            details = Details(
                name=told.name,
                description=told.description,
                brand=told.brand,
                category=told.category,
                attributes=told.attributes,
            )
            return {told.sku: (Described(told.version, details), Priced(told.version, told.price))}, ()
        case PriceChanged() as changed:
            return {changed.sku: (Priced(changed.version, changed.new),)}, ()
        case ProductRetired() as retired:
            return {retired.sku: (Gone(retired.version),)}, ()
        case StockReceived(sku=sku) | StockSetAside(sku=sku):
            return {}, (sku,)
        case StockReserved() | ReservationReleased() | ReservationExpired() | StockReturned() as moved:
            return {}, tuple(line.sku for line in moved.lines)
        case _:
            raise AssertionError(f"{event.id} is not heard here")
