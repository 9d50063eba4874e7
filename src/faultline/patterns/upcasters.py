"""Old events read as today's: the past is never changed, it is translated.

    def with_currency(old: Recorded) -> Iterable[Recorded]:
        yield replace(old, schema=2, data={**old.data, "currency": CURRENCY_OF[old.data["country"]]})

    store = EventStore(dsn, upcasters={("order-placed", 1): with_currency})

**Promise.** What is stored stays as it is. An event goes from one upcaster to the next until none knows its type and
schema; a reader sees only what comes out. An upcaster gives one event, or several in order. The parts of an
event that was split have its id with a number, the same at every reading.

**Not promised.** That an upcaster is right: let it look at the event only, never at a clock, a setting or a table, or
the past will change with them. To hide an event, give it a type that nobody hears. Events that no upcaster knows, of a
newer writer, pass as they are.

**Cost.** O(upcasters on the way) an event, at every reading: a snapshot or a projection pays it once.

Sources: Overeem et al., *The dark side of event sourcing: Managing data conversion* (2017), for upcasting as against
the other ways; Young, *Versioning in an Event Sourced System* (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

    from faultline.patterns.event_store import Position


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as it is read."""

    stream: str
    version: int
    """The how-manieth of its stream, from 1; parts of a split one share it."""
    id: str
    type: str
    schema: int
    data: Mapping[str, Any]
    headers: Mapping[str, str]
    recorded_at: datetime
    """When the store was told; aware."""
    position: Position
    """Where it stands among all events: go on reading from there."""


Upcaster: TypeAlias = Callable[[Recorded], Iterable[Recorded]]
Upcasters: TypeAlias = Mapping[tuple[str, int], Upcaster]
"""By the type and schema that it translates from."""


def upcast(upcasters: Upcasters, event: Recorded) -> list[Recorded]:
    """The event in today's shape. Raises `ValueError` for an upcaster that gives none, or is come back to."""
    return _upcast(upcasters, event, frozenset())


def _upcast(upcasters: Upcasters, event: Recorded, seen: frozenset[tuple[str, int]]) -> list[Recorded]:
    shape = (event.type, event.schema)
    upcaster = upcasters.get(shape)
    if upcaster is None:
        return [event]
    if shape in seen:
        raise ValueError(f"the upcasters of {event.type}, schema {event.schema}, lead back to it")
    parts = list(upcaster(event))
    if not parts:
        raise ValueError(f"the upcaster of {event.type}, schema {event.schema}, gives no event")
    ids = [event.id] if len(parts) == 1 else [f"{event.id}/{number}" for number in range(1, len(parts) + 1)]
    return [
        today
        for part, name in zip(parts, ids, strict=True)
        for today in _upcast(upcasters, replace(part, id=name), seen | {shape})
    ]
