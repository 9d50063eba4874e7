"""What upcasters promise: the past is translated, step by step, and always to the same thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from faultline.patterns import Position, Recorded, Upcasters, upcast

if TYPE_CHECKING:
    from collections.abc import Iterable

OLD = Recorded("s", 4, "e", "moved", 1, {"from": "a", "to": "b"}, {}, datetime(2026, 1, 1, tzinfo=UTC), Position(9, 4))


def to(schema: int, **more: Any) -> Any:
    def upcaster(old: Recorded) -> Iterable[Recorded]:
        yield replace(old, schema=schema, data={**old.data, **more})

    return upcaster


def split(old: Recorded) -> Iterable[Recorded]:
    yield replace(old, type="left", schema=1, data={"room": old.data["from"]})
    yield replace(old, id="whatever", type="entered", schema=1, data={"room": old.data["to"]})


def test_an_event_goes_from_one_to_the_next_until_none_knows_it() -> None:
    upcasters: Upcasters = {("moved", 1): to(2, by="foot"), ("moved", 2): to(5, at=None), ("moved", 3): to(9)}
    assert upcast(upcasters, OLD) == [replace(OLD, schema=5, data={"from": "a", "to": "b", "by": "foot", "at": None})]
    assert upcast(upcasters, replace(OLD, schema=7)) == [replace(OLD, schema=7)], "a newer writer's"
    assert upcast({}, OLD) == [OLD]


def test_a_split_event_has_parts_in_order_whose_ids_are_always_the_same() -> None:
    upcasters: Upcasters = {("moved", 1): to(2), ("moved", 2): split, ("left", 1): to(2)}
    first, second = upcast(upcasters, OLD)
    assert (first.id, first.type, first.schema, first.data) == ("e/1", "left", 2, {"room": "a"})
    assert (second.id, second.type, second.schema, second.data) == ("e/2", "entered", 1, {"room": "b"})
    assert first.version == second.version == 4
    assert first.position == second.position == OLD.position
    assert upcast(upcasters, OLD) == [first, second]


def test_a_circle_and_a_lost_event_are_refused() -> None:
    with pytest.raises(ValueError, match="lead back to it"):
        upcast({("moved", 1): to(2), ("moved", 2): to(1)}, OLD)
    with pytest.raises(ValueError, match="gives no event"):
        upcast({("moved", 1): lambda _: []}, OLD)
