"""How an entry is written, and when a policy has it loaded again: nothing here waits."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultline.patterns import Early, Refresh, StaleWhileRevalidate, XFetch
from faultline.patterns.cache_entry import Entry, packed, unpacked


@given(payload=st.none() | st.binary(max_size=40), took=st.floats(0, 10_000))
def test_what_was_packed_is_unpacked(payload: bytes | None, took: float) -> None:
    entry = unpacked(packed(payload, took))

    assert entry is not None
    assert entry.payload == payload
    assert entry.took == pytest.approx(took, abs=0.0006)


def test_nothing_and_an_empty_value_are_two_things() -> None:
    assert unpacked(packed(None, 0.0)) == Entry(None, 0.0)
    assert unpacked(packed(b"", 0.0)) == Entry(b"", 0.0)


@given(payload=st.none() | st.binary(max_size=40), data=st.data())
def test_one_changed_byte_or_a_cut_is_a_miss(payload: bytes | None, data: st.DataObject) -> None:
    entry = packed(payload, 0.0)
    changed = bytearray(entry)
    changed[data.draw(st.integers(0, len(entry) - 1))] ^= data.draw(st.integers(1, 255))

    assert unpacked(bytes(changed)) is None
    assert unpacked(entry[: data.draw(st.integers(0, len(entry) - 1))]) is None


def test_a_value_does_not_become_nothing_by_one_byte() -> None:
    assert unpacked(packed(b"", 0.0).replace(b"v", b"n", 1)) is None
    assert unpacked(packed(None, 0.0).replace(b"n", b"v", 1)) is None


@pytest.mark.parametrize("raw", [None, "text", b"", b"{}", b'{"id": "hat"}', b"\x80\x05]\x94.", b"\xc1Fx" + bytes(8)])
def test_what_others_write_is_a_miss(raw: object) -> None:
    assert unpacked(raw) is None


def test_a_load_that_took_for_ever_is_written_as_long() -> None:
    entry = unpacked(packed(b"", 1e12))

    assert entry is not None
    assert entry.took > 4e6


@pytest.mark.parametrize(
    ("policy", "left", "due"),
    [
        (StaleWhileRevalidate(5.0), 0.01, False),
        (StaleWhileRevalidate(5.0), 0.0, True),
        (StaleWhileRevalidate(5.0), -4.0, True),
        (Early(2.0), 0.41, False),
        (Early(2.0), 0.4, True),
        (Early(3.0), 0.41, True),
    ],
)
def test_when_a_refresh_is_due(policy: Refresh, left: float, due: bool) -> None:
    assert policy.due(left, 0.2, Random(0)) is due


@pytest.mark.parametrize(("left", "share"), [(0.0, 1.0), (0.1, 0.607), (0.2, 0.368), (0.6, 0.050)])
def test_xfetch_draws_exponentially(left: float, share: float) -> None:
    chance = Random(7)

    due = sum(XFetch(1.0).due(left, 0.2, chance) for _ in range(20_000)) / 20_000

    assert due == pytest.approx(share, abs=0.012)
    doubled = sum(XFetch(2.0).due(2 * left, 0.2, chance) for _ in range(20_000)) / 20_000
    assert doubled == pytest.approx(share, abs=0.012)
    assert XFetch(10.0).due(left, 0.0, chance) is (left <= 0), "a load that takes no time needs no early one"


@pytest.mark.parametrize("beyond", [0.0, -1.0, float("inf"), float("nan")])
def test_an_old_value_is_given_for_a_while(beyond: float) -> None:
    with pytest.raises(ValueError, match="beyond"):
        StaleWhileRevalidate(beyond)
