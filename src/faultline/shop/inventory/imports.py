"""Stock that comes row by row over one long call: counted in batches, each row once however often it is sent.

One batch is read, and nothing more while that is written: a caller who sends faster than the database takes it is
stopped by the flow control of HTTP/2, and no memory is needed for the rest. A call that breaks leaves the batches
before that in the stock. Whoever sends all of it again, by the same id, counts nothing twice: a row is known by its
import and number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faultline.shop.inventory.domain import importing, not_importable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from faultline.shop.contracts import Line
    from faultline.shop.inventory.store import Counted, Stock

BATCH = 500  # rows
PATIENCE = 10.0  # seconds for one of them
MOST_ERRORS = 100


class Silent(Exception):
    """Nothing came for so long that nobody waits any more; what was answered stays true."""


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that does not count, and why."""

    row: int
    name: str
    detail: str


@dataclass(slots=True)
class Summary:
    """What has become of the rows so far."""

    rows: int = 0
    counted: int = 0
    counted_now: int = 0
    refused: int = 0
    errors: list[RowError] = field(default_factory=list[RowError])
    """The first of those that were refused."""


class Import:
    """One call of one import."""

    def __init__(
        self,
        stock: Stock,
        import_id: str,
        ended: Callable[[Callable[[], Awaitable[Counted]], float], Awaitable[Counted]],
    ) -> None:
        """`ended` works something to its end within so many seconds, though the caller is gone. Raises `NotAsked`."""
        self.id = importing(import_id)
        self._stock = stock
        self._ended = ended
        self._summary = Summary()
        self._batch: dict[int, Line] = {}

    async def add(self, row: Line) -> None:
        """The next row; once a batch is full, it is in the stock when this returns."""
        self._summary.rows += 1
        if wrong := not_importable(row):
            self._refuse(self._summary.rows, "invalid", wrong)
            return
        self._batch[self._summary.rows] = row
        if len(self._batch) == BATCH:
            await self._count()

    async def done(self) -> Summary:
        """Count what is left; what has become of all."""
        if self._batch:
            await self._count()
        return self._summary

    async def _count(self) -> None:
        batch, self._batch = self._batch, {}
        counted = await self._ended(lambda: self._stock.count(self.id, batch), PATIENCE)
        for number in sorted(counted.otherwise):
            self._refuse(number, "asked-otherwise", f"row {number} of import {self.id} was another one before")
        self._summary.counted += len(batch) - len(counted.otherwise)
        self._summary.counted_now += counted.fresh

    def _refuse(self, number: int, name: str, detail: str) -> None:
        self._summary.refused += 1
        if len(self._summary.errors) < MOST_ERRORS:
            self._summary.errors.append(RowError(number, name, detail))
