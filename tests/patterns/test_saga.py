"""What a saga's definition promises: no design that gets stuck half-way, and what comes next is decided without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from faultline.patterns import Place, Saga, SagaDesignError, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from faultline.patterns.saga import Kind, Outcome


async def nothing(key: str, data: Mapping[str, Any]) -> None:
    """Done."""


def step(name: str, kind: Kind = "compensatable", **more: Any) -> Step:
    return Step(name, nothing, undo=nothing if kind == "compensatable" else None, kind=kind, **more)


CHECKOUT = Saga("checkout", 1, (step("reserve"), step("hold"), step("capture", "pivot"), step("confirm", "retriable")))


def after(place: Place, outcome: Outcome, *, in_doubt: bool = False, spent: bool = False) -> Any:
    return CHECKOUT.after(place, outcome, in_doubt=in_doubt, spent=spent)


def forward(number: int) -> Place:
    return Place("forward", number)


def back(number: int) -> Place:
    return Place("back", number)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ((), "names of their own"),
        ((step("a"), step("a")), "names of their own"),
        ((step(""),), "names of their own"),
        ((step("a", "pivot"), step("b", "pivot")), "two points of no return"),
        ((step("a", "pivot"), step("b")), "first, then the pivot"),
        ((step("a", "retriable"), step("b")), "first, then the pivot"),
        ((step("a", "retriable"), step("b", "pivot")), "first, then the pivot"),
        ((Step("a", nothing),), "a cannot be undone"),
        ((step("a", timeout=0),), "attempts of 0 s"),
        ((step("a", attempts=0),), "has 0 attempts"),
        ((step("a", base=-1),), "after -1 s"),
    ],
)
def test_a_design_that_can_get_stuck_is_refused(steps: tuple[Step, ...], why: str) -> None:
    with pytest.raises(SagaDesignError, match=why):
        Saga("s", 1, steps)


def test_it_goes_forward_to_the_end() -> None:
    assert [after(forward(n), "done") for n in range(4)] == [forward(1), forward(2), forward(3), "done"]


def test_what_was_refused_is_not_undone_but_all_before_it_in_reverse() -> None:
    assert [after(forward(n), "refused") for n in range(3)] == ["undone", back(0), back(1)]
    assert [after(back(n), "done") for n in (1, 0)] == [back(0), "undone"]


def test_what_must_not_be_refused_is_for_a_human() -> None:
    assert after(forward(3), "refused") == after(back(1), "refused") == "stuck"


def test_nothing_is_guessed() -> None:
    for place in (forward(0), forward(2), forward(3), back(0)):
        assert after(place, "unknown", in_doubt=True) == place
        assert after(place, "not tried") == place


def test_after_so_many_attempts_it_turns_back_where_it_may() -> None:
    assert after(forward(1), "unknown", in_doubt=True, spent=True) == back(1), "what may have happened is undone, too"
    assert after(forward(1), "not tried", spent=True) == back(0)
    assert after(forward(0), "not tried", spent=True) == "undone"
    assert after(forward(2), "not tried", spent=True) == back(1)
    assert after(forward(2), "unknown", in_doubt=True, spent=True) == forward(2), "it may be past the pivot"
    assert after(forward(2), "not tried", in_doubt=True, spent=True) == forward(2)
    assert after(forward(3), "unknown", in_doubt=True, spent=True) == forward(3)
    assert after(back(1), "unknown", in_doubt=True, spent=True) == back(1)


def test_when_it_is_late_it_turns_back_where_it_may() -> None:
    def before(place: Place, *, in_doubt: bool = False, late: bool = True) -> Any:
        return CHECKOUT.before(place, in_doubt=in_doubt, late=late)

    assert before(forward(0)) == "undone"
    assert [before(forward(n)) for n in (1, 2, 3)] == [back(0), back(1), forward(3)]
    assert [before(forward(n), in_doubt=True) for n in (0, 1, 2, 3)] == [back(0), back(1), forward(2), forward(3)]
    assert before(back(1), in_doubt=True) == back(1)
    assert before(forward(1), late=False) == forward(1)


def test_a_pivot_that_can_be_voided_is_when_nobody_knows_what_became_of_it() -> None:
    void = Step("capture", nothing, undo=nothing, kind="pivot")
    saga = Saga("s", 1, (step("reserve"), void, step("confirm", "retriable")))
    assert saga.after(forward(1), "unknown", in_doubt=True, spent=True) == back(1)
    assert saga.after(forward(1), "done", in_doubt=True, spent=True) == forward(2)
