"""What keeps the index what the catalog is: it is filled anew, or held beside the catalog and mended. One at a time.

    begin ──► an index that takes events, too ──► all of the catalog into it ──► it takes the place of the old one
                    │ killed here: the next process removes it, and fills another if there was none before

A rebuild reads the catalog after its index takes events. So a change is in what it reads, or comes as an event, or
both; versions decide, and none is missed. What was retired the catalog does not tell: that is brought over from the
index before.

A check reads the catalog first and the index afterwards, so what has been heard of meanwhile is no difference. What
differs is looked at again after `LAG`: an event may be on its way.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from faultline.shop.search.cluster import Refused
from faultline.shop.search.domain import Difference, Gone, Shelf, compared, known
from faultline.shop.search.events import deciding
from faultline.shop.search.store import entrance

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from faultline.shop.search.domain import Document, News
    from faultline.shop.search.rpc import Catalog, Inventory, Product
    from faultline.shop.search.store import Decide, Index

LAG = 2.0  # seconds that an event may take from its commit to the index
FAREWELL = 3.0  # seconds in which a search that has found the old index comes to its end
PAGE = 100  # documents
TOLD = 100  # products of each difference that are named

log = logging.getLogger(__name__)


class Busy(Exception):
    """Refused: there is a rebuild or a check at work already."""


class State(StrEnum):
    """How work stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Work:
    """A rebuild or a check: how far it is, and what has come of it."""

    what: str
    begun_at: datetime
    state: State = State.RUNNING
    ended_at: datetime | None = None
    products: int = 0
    """Of the catalog, that it has seen."""
    index: str = ""
    """What a rebuild fills."""
    error: str = ""
    counts: dict[Difference, int] = field(default_factory=dict[Difference, int])
    """How many products differ, of a check."""
    differing: dict[Difference, list[str]] = field(default_factory=dict[Difference, list[str]])
    """Of each the first hundred."""
    mended: int = 0

    def differs(self, sku: str, how: Difference) -> None:
        """Note it."""
        self.counts[how] = self.counts.get(how, 0) + 1
        named = self.differing.setdefault(how, [])
        if len(named) < TOLD:
            named.append(sku)


class Upkeep:
    """Rebuilds and checks, each in a task of `tasks`; the last one of each is remembered while the process lives."""

    def __init__(
        self,
        index: Index,
        catalog: Catalog,
        inventory: Inventory,
        *,
        hears: Callable[[], Awaitable[None]],
        tasks: asyncio.TaskGroup,
    ) -> None:
        """`hears`: raises unless the broker gives this service its events."""
        self._index, self._catalog, self._inventory = index, catalog, inventory
        self._hears, self._tasks = hears, tasks
        self._running: asyncio.Task[None] | None = None
        self.last: dict[str, Work] = {}

    async def look_after(self) -> bool:
        """See that there is an index, and nothing that a killed process has left; whether there is more to do."""
        if self._running:
            return False
        left = await self._index.remove_what_is_not_searched()
        if left:
            log.warning("removed what a rebuild has left", extra={"reason": ", ".join(left)})
        if await self._index.searched() is None:
            self.rebuild()
        return False

    def rebuild(self) -> Work:
        """Begin to fill an index anew. Raises `Busy`."""
        return self._begin("rebuild", self._rebuilt)

    def check(self, *, mend: bool) -> Work:
        """Begin to hold the index beside the catalog. Raises `Busy`."""
        return self._begin("check", self._checked_and_mended if mend else self._checked)

    def end(self) -> None:
        """Break off what is at work."""
        if self._running:
            self._running.cancel()

    def _begin(self, what: str, act: Callable[[Work], Coroutine[object, object, None]]) -> Work:
        if self._running:
            raise Busy("a rebuild or a check is at work already")
        work = self.last[what] = Work(what, datetime.now(UTC))
        self._running = self._tasks.create_task(self._done(work, act))
        return work

    async def _done(self, work: Work, act: Callable[[Work], Coroutine[object, object, None]]) -> None:
        work.state = State.FAILED  # unless it comes to its end
        try:
            work.state = State.RUNNING
            await act(work)
            work.state = State.DONE
        except (OSError, Refused) as error:
            work.state, work.error = State.FAILED, str(error)
            log.warning("%s: given up", work.what, extra={"reason": repr(error)})
        finally:
            work.ended_at = datetime.now(UTC)
            self._running = None

    async def _rebuilt(self, work: Work) -> None:
        fresh = work.index = await self._index.begin()
        try:
            await self._hearing()
            await self._fill(fresh, work)
            others = await self._index.put_in_place(fresh)
        except BaseException:
            with suppress(OSError):  # or the next process does it
                await self._index.remove(fresh)
            raise
        await asyncio.sleep(FAREWELL)
        for other in others:
            await self._index.remove(other)

    async def _hearing(self) -> None:
        """Wait until what happens from now on is heard: what is read from now on has happened before."""
        while True:
            try:
                await self._hears()
            except ConnectionError:
                await asyncio.sleep(0.05)
            else:
                return

    async def _fill(self, fresh: str, work: Work) -> None:
        into = [entrance(fresh)]
        if await self._index.searched():
            await self._index.refresh()
            async for some in self._index.unlisted(at_once=PAGE):
                await self._index.write([one.sku for one in some], self._brought_over(some), into=into)
        async for page in self._catalog.pages():
            await self._write({product.sku: product.news for product in page}, into=into)
            work.products += len(page)

    async def _write(self, news: Mapping[str, Sequence[News]], *, into: Sequence[str] | None = None) -> None:
        """Tell it, with what there is in stock."""
        if news:
            await self._index.write(list(news), deciding(news, news.keys(), self._inventory), into=into)

    def _brought_over(self, some: Sequence[Document]) -> Decide:
        return deciding({one.sku: known(one) for one in some}, (), self._inventory)

    async def _checked(self, work: Work) -> None:
        await self._compare(work, mend=False)

    async def _checked_and_mended(self, work: Work) -> None:
        await self._compare(work, mend=True)

    async def _compare(self, work: Work, *, mend: bool) -> None:
        doubtful: list[str] = []
        there: set[str] = set()
        async for page in self._catalog.pages():
            there |= {product.sku for product in page}
            doubtful += await self._differing({product.sku: product for product in page})
            work.products += len(page)
        await self._index.refresh()
        async for skus in self._index.listed(at_once=PAGE):
            doubtful += [sku for sku in skus if sku not in there]
        if doubtful:
            await asyncio.sleep(LAG)
        for first in range(0, len(doubtful), PAGE):
            await self._looked_at_again(doubtful[first : first + PAGE], work, mend=mend)

    async def _differing(self, products: Mapping[str, Product | None]) -> dict[str, Difference]:
        levels = await self._inventory.levels(list(products))
        documents = await self._index.documents(list(products))
        shelves = {
            sku: None if one is None else Shelf(version=one.version, price=one.price, available=levels.get(sku, 0))
            for sku, one in products.items()
        }
        found = {sku: compared(documents.get(sku), shelf) for sku, shelf in shelves.items()}
        return {sku: how for sku, how in found.items() if how}

    async def _looked_at_again(self, skus: Sequence[str], work: Work, *, mend: bool) -> None:
        products = {sku: await self._catalog.product(sku) for sku in skus}
        differing = await self._differing(products)
        for sku, how in differing.items():
            work.differs(sku, how)
        if not mend:
            return
        documents = await self._index.documents(list(differing))
        gone = {sku: [Gone(documents[sku].version)] for sku in differing if products[sku] is None}
        news = {sku: one.news for sku in differing if (one := products[sku])}
        await self._write(gone)
        await self._write(news)
        left = await self._differing({sku: products[sku] for sku in differing})
        work.mended += len(differing) - len(left)
