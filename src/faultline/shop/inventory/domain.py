"""The rules of reservations: no I/O, no await, no clock.

                   ┌─ commit ──► committed ── given back ──► returned
    ──► reserved ──┼─ release ─► released ◄── release of an order that is not known (yet)
    ──► rejected   └─ expire ──► expired

Every request may come twice, late, or after its opposite. The same again is answered with what is; what contradicts
what has happened is refused.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Self

from faultline.shop.contracts import (
    Contract,
    Line,
    ReservationCommitted,
    ReservationExpired,
    ReservationRejected,
    ReservationReleased,
    StockReserved,
    StockReturned,
)

LONGEST = 3600.0  # seconds for which an order may hold something
MOST_LINES, MOST = 100, 10**9
MOST_WATCHED = 500  # products in one call
MOST_NAME, MOST_IMPORT = 100, 64  # bytes; the id of a row's event has room for both
HEARTBEAT, LONGEST_HEARTBEAT = 10.0, 60.0  # seconds


class State(StrEnum):
    """Of a reservation."""

    RESERVED = "reserved"
    REJECTED = "rejected"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What an order holds, or has held."""

    order: str
    state: State
    version: int
    lines: tuple[Line, ...]
    expires_at: datetime
    short_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashSale:
    """So many units of one product, sold one by one to whoever comes first."""

    sku: str
    units: int
    sold: int

    @property
    def next_unit(self) -> int | None:
        """The number of the unit that is sold next, from 1; None if all are gone."""
        return self.sold + 1 if self.sold < self.units else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How many of a product there are; `received + returned = reserved + committed + available`."""

    sku: str
    received: int
    returned: int
    reserved: int
    committed: int
    available: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a reader of PostgreSQL saw: the work of all transactions below `below`, and up to `to` but for `running`."""

    below: int
    to: int
    running: frozenset[int] = frozenset()

    @classmethod
    def read(cls, text: str) -> Self:
        """As `pg_snapshot` is written, `10:14:10,12`. Raises `ValueError`."""
        below, to, running = text.split(":")
        return cls(int(below), int(to), frozenset(int(one) for one in running.split(",") if one))

    def __str__(self) -> str:
        return f"{self.below}:{self.to}:{','.join(map(str, sorted(self.running)))}"

    def sees(self, transaction: int) -> bool:
        """Whether what it has committed is in this snapshot."""
        return transaction < self.below or (transaction < self.to and transaction not in self.running)


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where a watcher of these products has heard everything: what its resume token says."""

    history: str
    """Of which database; the numbers of another one mean something else."""
    products: str
    snapshot: Snapshot

    @classmethod
    def of(cls, skus: Sequence[str], history: str, snapshot: Snapshot) -> Self:
        """The place after all that this snapshot saw."""
        return cls(history, sha256("\0".join(sorted(skus)).encode()).hexdigest()[:16], snapshot)

    @classmethod
    def read(cls, token: str) -> Self:
        """Raises `NotAsked` for a token that nobody has given out."""
        try:
            history, products, snapshot = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            return cls(str(history), str(products), Snapshot.read(snapshot))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise NotAsked("take it from the last update, as it is", "resume_token") from error

    @property
    def token(self) -> str:
        """No caller has to know what is in it."""
        said = json.dumps([self.history, self.products, str(self.snapshot)])
        return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")

    def leads_to(self, now: Self) -> bool:
        """Whether what has changed between the two can be told; otherwise everything has to be read anew."""
        return (self.history, self.products) == (now.history, now.products) and self.snapshot.to <= now.snapshot.to


class Refused(Exception):
    """Nothing has changed; the message says why, and it stays so."""


class NotAsked(Refused):
    """The request is nonsense in itself."""

    def __init__(self, message: str, field: str) -> None:
        """`field`: the path of what is wrong in it, such as `lines[2].quantity`."""
        super().__init__(message)
        self.field = field


class AskedOtherwise(Refused):
    """The key belongs to another request."""


class TooLate(Exception):
    """Nothing has changed: somebody else has had the lease of the flash sale since. Asking again is safe."""


def asked(order: str, lines: tuple[Line, ...], seconds: float) -> tuple[Line, ...]:
    """The lines in the order in which rows are locked, each product once; raises `NotAsked`."""
    if not order:
        raise NotAsked("an order has an id", "order_id")
    total: dict[str, int] = {}
    for n, line in enumerate(lines):
        if not line.sku:
            raise NotAsked("a product has a name", f"lines[{n}].sku")
        if not 1 <= line.quantity <= MOST:
            raise NotAsked(f"{line.quantity} of {line.sku!r} cannot be reserved", f"lines[{n}].quantity")
        total[line.sku] = total.get(line.sku, 0) + line.quantity
    if not 1 <= len(total) <= MOST_LINES:
        raise NotAsked(f"an order has 1 to {MOST_LINES} products, not {len(total)}", "lines")
    if not 0 < seconds <= LONGEST:
        raise NotAsked(f"something is held for 0 to {LONGEST:.0f} s, not {seconds}", "seconds")
    return tuple(Line(sku, total[sku]) for sku in sorted(total))


def watched(skus: Sequence[str], heartbeat: float) -> tuple[frozenset[str], float]:
    """The products, and seconds between two signs of life; raises `NotAsked`."""
    if not 1 <= len(skus) <= MOST_WATCHED:
        raise NotAsked(f"1 to {MOST_WATCHED} products are watched in one call, not {len(skus)}", "skus")
    wrong = next((n for n, sku in enumerate(skus) if not sku or "\0" in sku), None)
    if wrong is not None:
        raise NotAsked("a product has a name", f"skus[{wrong}]")
    if heartbeat and not 1 <= heartbeat <= LONGEST_HEARTBEAT:
        raise NotAsked(f"1 to {LONGEST_HEARTBEAT:g} s, not {heartbeat}", "heartbeat_seconds")
    return frozenset(skus), heartbeat or HEARTBEAT


def importing(import_id: str) -> str:
    """The id of an import; raises `NotAsked`."""
    if not 1 <= len(import_id.encode()) <= MOST_IMPORT or set("/\0") & set(import_id):
        raise NotAsked(f"an import has an id of 1 to {MOST_IMPORT} bytes, without a slash", "import_id")
    return import_id


def not_importable(row: Line) -> str:
    """What is wrong with a row; nothing, if it can be counted."""
    if not 1 <= len(row.sku.encode()) <= MOST_NAME or "\0" in row.sku:
        return f"a product has a name of 1 to {MOST_NAME} bytes"
    if not 1 <= row.quantity <= MOST:
        return f"1 to {MOST} may come at once, not {row.quantity}"
    return ""


def reserved(order: str, lines: tuple[Line, ...], there: Mapping[str, int], *, expires_at: datetime) -> Reservation:
    """All of it if there is so much, by sku; otherwise none."""
    short_of = next((line.sku for line in lines if there.get(line.sku, 0) < line.quantity), "")
    state = State.REJECTED if short_of else State.RESERVED
    return Reservation(order=order, state=state, version=1, lines=lines, expires_at=expires_at, short_of=short_of)


def repeated(found: Reservation, lines: tuple[Line, ...]) -> Reservation:
    """The answer to a request whose key is known; raises `AskedOtherwise`."""
    if found.lines and found.lines != lines:
        raise AskedOtherwise(f"order {found.order} has asked for something else before")
    return found


def committed(found: Reservation) -> Reservation:
    """It is sold; the same if it was already. Raises `Refused` if it is not held any more."""
    if found.state in {State.COMMITTED, State.RETURNED}:
        return found
    if found.state is not State.RESERVED:
        raise Refused(f"order {found.order} holds nothing: it is {found.state}")
    return replace(found, state=State.COMMITTED, version=found.version + 1)


def released(found: Reservation) -> Reservation:
    """It is free; the same if it held nothing. Raises `Refused` if it is sold."""
    if found.state in {State.COMMITTED, State.RETURNED}:
        raise Refused(f"what order {found.order} held is sold; that is a return")
    if found.state is not State.RESERVED:
        return found
    return replace(found, state=State.RELEASED, version=found.version + 1)


def expired(found: Reservation) -> Reservation:
    """It was held too long."""
    return replace(found, state=State.EXPIRED, version=found.version + 1)


def returned(found: Reservation) -> Reservation:
    """What was sold is here again; the same if it was already. Raises `Refused` if it was never sold."""
    if found.state is State.RETURNED:
        return found
    if found.state is not State.COMMITTED:
        raise Refused(f"order {found.order} was sold nothing: it is {found.state}")
    return replace(found, state=State.RETURNED, version=found.version + 1)


def told(now: Reservation) -> Contract:
    """What is said of a reservation that has just got into this state."""
    match now.state:
        case State.RESERVED:
            return StockReserved(order=now.order, lines=now.lines, expires_at=now.expires_at)
        case State.REJECTED:
            return ReservationRejected(order=now.order, short_of=now.short_of)
        case State.COMMITTED:
            return ReservationCommitted(order=now.order, lines=now.lines)
        case State.RELEASED:
            return ReservationReleased(order=now.order, lines=now.lines)
        case State.EXPIRED:
            return ReservationExpired(order=now.order, lines=now.lines)
        case State.RETURNED:
            return StockReturned(order=now.order, lines=now.lines)
