"""Exactly-once effect, by its definition."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from faultline.testbed import Broken, Operation, Outcome, Vacuous, exactly_once

OK, FAILED, UNKNOWN, PENDING = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN, Outcome.PENDING


def asked(*outcomes: tuple[str, Outcome]) -> list[tuple[str, Operation]]:
    return [(request, Operation("till", "pay", 0.0, None, outcome)) for request, outcome in outcomes]


def allowed(outcomes: set[Outcome]) -> set[int]:
    if not outcomes:
        return {0}
    if OK in outcomes:
        return {1}
    return {0} if outcomes == {FAILED} else {0, 1}


@given(some.lists(some.tuples(some.sampled_from("abc"), some.sampled_from(Outcome)), max_size=6), some.text("abcd"))
@example([("a", FAILED), ("a", OK)], "a")
@example([("a", FAILED), ("a", UNKNOWN)], "a")
@example([("a", FAILED), ("a", FAILED)], "a")
@example([("a", PENDING)], "aa")
def test_effects_are_refused_where_some_request_has_a_number_of_them_that_its_outcomes_forbid(
    requests: list[tuple[str, Outcome]], effects: str
) -> None:
    found = Counter(effects)
    kept = all(
        found[request] in allowed({outcome for which, outcome in requests if which == request}) for request in "abcd"
    )
    if kept:
        exactly_once(asked(*requests), effects, at_least=0)
        return
    with pytest.raises(Broken):
        exactly_once(asked(*requests), effects, at_least=0)


@pytest.mark.parametrize(
    ("requests", "effects", "said"),
    [
        ([("a", OK)], "", "^'a' was acknowledged and has no effect$"),
        ([("a", OK), ("a", UNKNOWN)], "aa", "^'a' has 2 effects after 2 calls; promised is one$"),
        ([("a", FAILED)], "a", "^'a' failed, and yet has an effect$"),
        ([("a", OK)], "ab", "^'b' has an effect, and nobody asked for it$"),
        ([("a", OK), ("b", OK)], "c", "^'a' was acknowledged and has no effect; 2 more like this$"),
    ],
)
def test_the_message_says_what_happened_too_often_or_not(
    requests: list[tuple[str, Outcome]], effects: str, said: str
) -> None:
    with pytest.raises(Broken, match=said):
        exactly_once(asked(*requests), effects, at_least=1)


def test_the_witness_is_every_call_of_the_request() -> None:
    requests = asked(("a", UNKNOWN), ("b", OK), ("a", OK))
    with pytest.raises(Broken) as broken:
        exactly_once(requests, "aab", at_least=1)
    (_, first), _, (_, again) = requests
    assert broken.value.witness[0] is first
    assert broken.value.witness[1] is again
    assert len(broken.value.witness) == 2


@pytest.mark.parametrize("requests", [[], [("a", UNKNOWN), ("b", FAILED)], [("a", OK), ("a", OK)]])
def test_too_few_acknowledged_requests_are_vacuous(requests: list[tuple[str, Outcome]]) -> None:
    effects = [request for request, outcome in requests[:1] if outcome is OK]
    with pytest.raises(Vacuous, match=r"only \d of 2 requests were acknowledged"):
        exactly_once(asked(*requests), effects, at_least=2)


def test_a_violation_goes_before_too_little() -> None:
    with pytest.raises(Broken):
        exactly_once([], "a", at_least=1)
