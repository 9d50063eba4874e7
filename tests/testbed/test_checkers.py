"""Checkers refuse exactly the histories that their definition refuses, and never pass on too little."""

from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from faultline.testbed import (
    Broken,
    Held,
    Note,
    Operation,
    Outcome,
    Vacuous,
    any_window_rate,
    conservation,
    mutual_exclusion,
    strictly_increasing,
)

INSTANTS = some.integers(0, 12).map(float)
INTERVALS = some.lists(some.builds(Held, some.sampled_from("abc"), INSTANTS, INSTANTS), max_size=7)


def refuses(history: list[Held]) -> bool:
    try:
        mutual_exclusion(history, at_least=0)
    except Broken:
        return True
    return False


@given(INTERVALS)
@example([Held("a", 0, 10), Held("b", 5, 5)])  # an instant inside
@example([Held("b", 5, 10), Held("a", 5, 5)])  # an instant at the beginning
@example([Held("a", 0, 10), Held("b", 7, 3)])  # nothing certain
@example([Held("a", 0, 9), Held("b", 1, 1), Held("c", 8, 10)])  # the one that reaches furthest is not the last
def test_exclusion_is_refused_where_two_certain_intervals_overlap(history: list[Held]) -> None:
    certain = [one for one in history if one.end >= one.start]
    overlap = any(one.start < other.end and other.start < one.end for one, other in combinations(certain, 2))
    assert refuses(history) == overlap


def test_exclusion_lets_intervals_touch() -> None:
    mutual_exclusion([Held("b", 1, 2), Held("a", 0, 1)], at_least=2)


def test_exclusion_shows_who_overlapped_for_how_long() -> None:
    first, second = Note("a", "got it", 0.0), Note("b", "got it too", 0.4)
    with pytest.raises(Broken, match=r"^a and b both held it, for 100 ms$") as broken:
        mutual_exclusion([Held("b", 0.4, 0.5, (second,)), Held("a", 0.0, 1.0, (first,))], at_least=2)
    assert broken.value.witness == (first, second)


@pytest.mark.parametrize("history", [[], [Held("a", 0, 1)], [Held("a", 0, 1), Held("b", 3, 2)]])
def test_exclusion_of_too_few_is_vacuous(history: list[Held]) -> None:
    with pytest.raises(Vacuous, match="of 2 acquisitions were seen"):
        mutual_exclusion(history, at_least=2)


SPANS = some.tuples(some.integers(0, 40), some.integers(0, 12))


def hits(spans: list[tuple[int, int]]) -> list[Operation]:
    return [Operation("ann", "hit()", float(start), float(start + took), Outcome.OK) for start, took in spans]


@given(some.lists(SPANS, max_size=12), some.integers(1, 4), some.integers(1, 10))
@example([(0, 0), (10, 0)], 1, 10)  # the window is half-open
@example([(3, 0)] * 3, 2, 1)  # at the same instant
@example([(0, 3), (3, 0), (3, 0)], 2, 3)  # called in the window, answered at its end
def test_a_rate_is_refused_where_some_window_certainly_holds_too_many(
    spans: list[tuple[int, int]], limit: int, per: int
) -> None:
    quarters = range(-40, 200)  # windows begin anywhere, not only at admissions
    most = max(
        sum(begin <= start * 4 and (start + took) * 4 < begin + per * 4 for start, took in spans) for begin in quarters
    )
    if most > limit:
        with pytest.raises(Broken, match=f"promised are {limit} in any {per} s") as broken:
            any_window_rate(hits(spans), limit=limit, per=float(per), at_least=0)
        assert broken.value.witness
    else:
        any_window_rate(hits(spans), limit=limit, per=float(per), at_least=0)


def test_a_rate_of_too_few_is_vacuous() -> None:
    unanswered = Operation("ann", "hit()", 1.0)
    with pytest.raises(Vacuous, match="only 1 of 2 admissions"):
        any_window_rate([*hits([(0, 1)]), unanswered], limit=5, per=1.0, at_least=2)


@given(some.dictionaries(some.sampled_from("abc"), some.integers(0, 9), min_size=1), some.integers(-3, 3))
def test_conservation_is_of_the_total_not_of_its_parts(before: dict[str, int], difference: int) -> None:
    after = {"elsewhere": sum(before.values()) + difference}
    if difference == 0:
        conservation(before, after, what="cents")
        return
    word = "lost" if difference < 0 else "made from nothing"
    with pytest.raises(Broken, match=f"^{abs(difference)} cents {word}: "):
        conservation(before, after, what="cents")


def test_conservation_of_nothing_is_vacuous() -> None:
    with pytest.raises(Vacuous):
        conservation({}, {}, what="cents")


@given(some.lists(some.integers(0, 5), min_size=2, max_size=6))
def test_increasing_means_each_is_larger_than_all_before(values: list[int]) -> None:
    increasing = all(later > max(values[:at]) for at, later in enumerate(values) if at)
    noted = [(value, Note("a", str(value), 0.0)) for value in values]
    if increasing:
        strictly_increasing(noted, what="token")
        return
    with pytest.raises(Broken, match=r"^token \d came after token \d$") as broken:
        strictly_increasing(noted, what="token")
    shown = [entry.text for entry in broken.value.witness if isinstance(entry, Note)]
    assert int(shown[1]) <= int(shown[0])


@pytest.mark.parametrize("values", [[], [(1, Note("a", "1", 0.0))]])
def test_increasing_of_fewer_than_two_is_vacuous(values: list[tuple[int, Note]]) -> None:
    with pytest.raises(Vacuous):
        strictly_increasing(values, what="token")
