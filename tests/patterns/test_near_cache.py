"""Level 1 by itself: bounded, and nothing arrives that was dropped on its way."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultline.patterns.near_cache import Entry, NearCache

NEVER = 1e9


def entry(value: str = "v", *tags: str, until: float = NEVER) -> Entry:
    return Entry(value, tags, until)


def trusted(size: int = 10) -> NearCache:
    near = NearCache(size)
    near.trust(NEVER)
    return near


def put(near: NearCache, key: str, what: Entry, now: float = 0.0) -> None:
    reading = near.open(key, now)
    near.keep(reading, what)
    near.close(reading)


def test_finds_what_was_kept_until_its_time_is_over() -> None:
    near = trusted()
    put(near, "hat", entry("hat-1", until=5.0))
    assert near.find("hat", 4.9) == "hat-1"
    assert near.find("hat", 5.0) is None
    assert len(near) == 0


def test_gives_up_what_was_used_longest_ago() -> None:
    near = trusted(size=2)
    put(near, "a", entry("a", "t"))
    put(near, "b", entry("b", "t"))
    assert near.find("a", 0.0) == "a"
    put(near, "c", entry("c", "t"))
    assert [near.find(key, 0.0) for key in "abc"] == ["a", None, "c"]


def test_nothing_is_found_joined_or_kept_while_nobody_is_heard() -> None:
    near = NearCache(10)
    put(near, "hat", entry())
    assert near.find("hat", 0.0) is None
    near.open("hat", 0.0)
    assert near.join("hat", 0.0) is None

    near.trust(1.0)
    put(near, "hat", entry())
    reading = near.open("cup", 0.0)
    assert near.find("hat", 0.9) == "v"
    assert near.join("cup", 0.9) is reading
    assert near.find("hat", 1.0) is None
    assert near.join("cup", 1.0) is None


def test_silence_that_ends_finds_what_was_there_and_a_break_does_not() -> None:
    near = NearCache(10)
    near.trust(1.0)
    put(near, "hat", entry())
    near.trust(2.0)
    assert near.find("hat", 1.5) == "v"
    near.distrust()
    near.trust(NEVER)
    assert near.find("hat", 1.5) is None


@pytest.mark.parametrize(
    "drop",
    [
        lambda near: near.drop("hat"),
        lambda near: near.drop_tag("clothes"),
        lambda near: near.drop_tag("any other"),
        lambda near: near.drop_all(),
        lambda near: near.distrust(),
    ],
    ids=["its key", "its tag", "another tag", "a gap", "a break"],
)
def test_what_was_on_its_way_when_it_was_dropped_does_not_arrive(drop: Callable[[NearCache], None]) -> None:
    near = trusted()
    reading = near.open("hat", 0.0)
    drop(near)
    near.trust(NEVER)
    assert near.join("hat", 0.0) is None, "a get that begins now would wait for what is old"
    later = near.open("hat", 0.0)
    near.keep(reading, entry("old", "clothes"))
    assert near.find("hat", 0.0) is None
    near.close(reading)
    assert near.join("hat", 0.0) is later, "an old reading that ends has taken the new one with it"
    near.keep(later, entry("new"))
    assert near.find("hat", 0.0) == "new"


def test_another_key_does_not_disturb_a_reading() -> None:
    near = trusted()
    reading = near.open("hat", 0.0)
    near.drop("cup")
    near.keep(reading, entry("hat-1"))
    assert near.find("hat", 0.0) == "hat-1"


def test_a_reading_that_began_before_anybody_was_heard_keeps_nothing() -> None:
    near = NearCache(10)
    reading = near.open("hat", 0.0)
    near.drop_all()
    near.trust(NEVER)
    near.keep(reading, entry("from before"))
    assert near.find("hat", 0.0) is None


KEYS, TAGS = st.sampled_from("abc"), st.lists(st.sampled_from("xyz"), max_size=3, unique=True)
STEP = st.one_of(
    st.tuples(st.just("put"), KEYS, TAGS),
    st.tuples(st.just("drop"), KEYS, st.just([])),
    st.tuples(st.just("drop_tag"), st.sampled_from("xyz"), st.just([])),
)


@given(size=st.integers(1, 3), steps=st.lists(STEP, max_size=30))
def test_holds_what_a_plain_dictionary_would(size: int, steps: list[tuple[str, str, list[str]]]) -> None:
    near, model = trusted(size), dict[str, list[str]]()
    for what, name, tags in steps:
        if what == "put":
            put(near, name, entry(name, *tags))
            model.pop(name, None)
            model[name] = tags
            if len(model) > size:
                del model[next(iter(model))]
        elif what == "drop":
            near.drop(name)
            model.pop(name, None)
        else:
            near.drop_tag(name)
            model = {key: held for key, held in model.items() if name not in held}
    assert len(near) == len(model)
    for key in "abc":  # the order of use stays: each is asked once, at the end
        assert (near.find(key, 0.0) is not None) == (key in model)
    for tag in "xyz":
        near.drop_tag(tag)
    assert len(near) == sum(not tags for tags in model.values()), "a tag was forgotten, or remembered too long"
    for key in "abc":
        near.drop(key)
    assert not near._by_tag, "a tag that nothing has is remembered"
