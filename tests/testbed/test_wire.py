"""Plain data arrives as it was sent, whatever is in it; too much of it is refused before it is sent."""

import asyncio
import enum
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from faultline.testbed import wire

SCALARS = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False)
    | some.text(some.characters(codec="utf-8"))
    | some.binary()
)
KEYS = some.text(some.characters(codec="utf-8")) | some.binary() | some.integers(-(2**63), 2**63)
PLAIN = some.recursive(SCALARS, lambda inner: some.lists(inner) | some.dictionaries(KEYS, inner), max_leaves=12)


async def there(value: Any) -> Any:
    reader = asyncio.StreamReader()
    reader.feed_data(wire.frame(wire.Reply(1, wire.pack(value))))
    answer = await wire.read_from_learner(reader)
    assert isinstance(answer, wire.Reply)
    return answer.value


@given(PLAIN)
@example({"type": "Ref", "number": 1})  # looks like ours, and is not
@example({"type": ["a list"]})
@example([2**64, -(2**63) - 1, 10**5000])
@example({b"key": {1: [b"value", 1.5, None]}})
@example([math.inf, -math.inf])
def test_plain_data_arrives_as_it_is(value: Any) -> None:
    assert asyncio.run(there(value)) == value


async def test_not_a_number_arrives() -> None:
    assert math.isnan(await there(float("nan")))


async def test_a_tuple_arrives_as_a_list() -> None:
    assert await there((1, (2,))) == [1, [2]]


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Colour(enum.IntEnum):
    RED = 1


class Seconds(float):
    pass


async def test_a_subclass_of_plain_data_arrives_as_its_value() -> None:
    assert await there([Name("a"), Colour.RED, Seconds(1.5)]) == ["a", 1, 1.5]


async def test_our_own_kinds_arrive_inside_each_other() -> None:
    ref = wire.Ref(7, "Lease", wire.pack({"token": 2**70}), {"valid_for": "ValueError"})
    at = wire.RedisAt("127.0.0.1", 1)
    [found, address] = await there([ref, at])
    assert found == wire.Ref(7, "Lease", {"token": 2**70}, {"valid_for": "ValueError"})
    assert address == at


@pytest.mark.parametrize("value", [object(), {1, 2}, [object()], {"key": object()}])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        wire.pack(value)


def test_a_message_larger_than_a_frame_is_refused_before_it_is_sent() -> None:
    assert wire.frame(wire.Reply(1, bytes(wire.MAX_FRAME - 100)))
    with pytest.raises(wire.TooLarge, match="can travel"):
        wire.frame(wire.Reply(1, bytes(wire.MAX_FRAME)))


async def test_a_frame_that_is_announced_too_large_ends_the_connection() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"\xff\xff\xff\xff")
    with pytest.raises(ConnectionError, match="announced"):
        await wire.read_from_learner(reader)
