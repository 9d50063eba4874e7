"""Values and objects on their way between the grader and the learner's process."""

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from faultline.testbed import Broken, LearnerProcess, Raised, Remote, wire

InProcess = Callable[[str], AbstractAsyncContextManager[LearnerProcess]]

ECHO = """
    async def echo(value):
        return value
"""
LEASE = """
    from collections import namedtuple

    Pair = namedtuple("Pair", "left right")

    class Lease:
        colour = "red"

        def __init__(self, token, parent=None):
            self.token, self.parent, self._secret, self.scopes = token, parent, 1, {"a"}

        @property
        def valid_for(self):
            return self.token / 2

        @property
        def broken(self):
            raise ValueError("not yet")

        def grow(self):
            self.token += 1

        async def child(self):
            return Lease(self.token + 1, self)

    def pair_of(*leases):
        return {"pair": list(leases), "first": leases[0].token}

    def pair():
        return Pair(1, 2)

    def itself():
        ring = []
        ring.append(ring)
        return ring
"""
VALUES: list[Any] = [
    None,
    True,
    -1,
    2**64,
    -(2**100),
    1.5,
    math.inf,
    "ü \x00 €",
    b"\x00\xff",
    [],
    [[1, [b"2"]], {}],
    {"type": "Ref", "number": 1, "kind": "x"},
    {"type": ["unhashable"]},
    {b"bytes": 1, 2: "two", "nested": {"None": None}},
]


async def test_plain_values_come_back_as_they_went(in_process: InProcess) -> None:
    async with in_process(ECHO) as process:
        for value in VALUES:
            assert await process.request(None, "echo", (value,), {}) == value
        assert await process.request(None, "echo", (), {"value": (1, (2, 3))}) == [1, [2, 3]]
        assert math.isnan(await process.request(None, "echo", (math.nan,), {}))


async def test_an_object_shows_what_it_looked_like_and_what_it_is_now(in_process: InProcess) -> None:
    async with in_process(LEASE) as process:
        lease = await process.new("Lease", 4)
        assert (lease.token, lease.valid_for, lease.colour, lease.parent) == (4, 2.0, "red", None)
        assert repr(lease) == "Lease(colour='red', token=4, valid_for=2.000)"

        await lease.grow()

        assert lease.token == 4
        assert await lease.fetch("token") == 5
        assert isinstance(await lease.fetch("scopes"), Remote)


async def test_a_property_that_raises_is_the_learners_failure(in_process: InProcess) -> None:
    async with in_process(LEASE) as process:
        lease = await process.new("Lease", 4)
        with pytest.raises(AssertionError, match=r"^reading Lease.broken raised ValueError: not yet$"):
            assert lease.broken
        with pytest.raises(Raised, match=r"^ValueError: not yet, at answer\.py:"):
            await lease.fetch("broken")


async def test_objects_travel_inside_lists_and_dicts_and_back(in_process: InProcess) -> None:
    async with in_process(LEASE) as process:
        lease = await process.new("Lease", 1)
        child = await lease.child()
        assert (child.token, (await child.fetch("parent")).token) == (2, 1)

        answer = await process.request(None, "pair_of", (lease, child), {})

        assert answer["first"] == 1
        assert [one.token for one in answer["pair"]] == [1, 2]
        pair = await process.new("pair")
        assert (pair.left, pair.right) == (1, 2)


async def test_the_call_that_brought_an_object_is_known(in_process: InProcess) -> None:
    async with in_process(LEASE) as process:
        lease = await process.new("Lease", token=1)
        assert lease.operation is not None
        assert (lease.operation.lane, lease.operation.what) == ("till-1", "Lease(token=1)")
        assert lease.operation.end is not None


async def test_what_should_be_an_object_and_is_not_is_the_learners_failure(in_process: InProcess) -> None:
    async with in_process("def lock():\n        return None\n") as process:
        with pytest.raises(Broken, match=r"^lock\(…\) gave None, not an object$"):
            await process.new("lock")


async def test_data_that_is_inside_itself_stays_where_it_is(in_process: InProcess) -> None:
    async with in_process(LEASE) as process:
        found = await process.request(None, "itself", (), {})
        assert (type(found), found.ref.kind) == (Remote, "list")


async def test_too_much_in_one_piece_is_an_error_and_no_hang(in_process: InProcess) -> None:
    async with in_process("def much(size):\n        return bytes(size)\n") as process:
        with pytest.raises(Raised, match=r"TooLarge: .* bytes in one piece"):
            await process.request(None, "much", (wire.MAX_FRAME,), {})
        with pytest.raises(wire.TooLarge):
            await process.request(None, "much", (bytes(wire.MAX_FRAME),), {})
        assert len(await process.request(None, "much", (wire.MAX_FRAME - 1000,), {})) == wire.MAX_FRAME - 1000
