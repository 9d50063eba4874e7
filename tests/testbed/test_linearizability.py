"""The register checker refuses exactly what the definition refuses, shows why, and never hangs."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, permutations
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from faultline.testbed import (
    Broken,
    CompareAndSet,
    Entry,
    Operation,
    Outcome,
    Read,
    TestbedError,
    Vacuous,
    Write,
    linearizable_register,
)

Access = Read | Write | CompareAndSet


def call(start: float, end: float, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation("client", "op", start, None if outcome is Outcome.PENDING else end, outcome)


def lost(start: float) -> Operation:
    return call(start, start + 0.5, Outcome.UNKNOWN)


def swap(expected: int, new: int, operation: Operation, *, swapped: bool = True) -> CompareAndSet:
    return CompareAndSet(key="x", expected=expected, new=new, swapped=swapped, call=operation)


# The definition, by trying everything: some subset of the uncertain operations, in some order.


def certain(access: Access) -> bool:
    return access.call.outcome is Outcome.OK


def ends(access: Access) -> float:
    return access.call.start + access.call.took if certain(access) else inf


def keeps_to_real_time(order: Sequence[Access]) -> bool:
    return not any(ends(later) < earlier.call.start for earlier, later in combinations(order, 2))


def is_answered_so(order: Sequence[Access], loose: set[object]) -> bool:
    """Whether a register answers so in that order, if the values in `loose` may be there at any time."""
    value: object = 0
    for access in order:
        may_be = {value, *loose}
        if isinstance(access, Write):
            value = access.value
        elif isinstance(access, Read):
            if certain(access) and access.value not in may_be:
                return False
        elif access.swapped or not certain(access):
            if access.expected not in may_be:
                return False  # a lost one that does not swap is one that was never taken
            value = access.new
        elif may_be == {access.expected}:
            return False
    return True


def subsets(accesses: Sequence[Access]) -> Iterator[tuple[Access, ...]]:
    return chain.from_iterable(combinations(accesses, size) for size in range(len(accesses) + 1))


def some_order_explains(accesses: Sequence[Access], loose: Iterable[object] = ()) -> bool:
    surely = [access for access in accesses if certain(access)]
    perhaps = [access for access in accesses if access.call.outcome in {Outcome.UNKNOWN, Outcome.PENDING}]
    return any(
        keeps_to_real_time(order) and is_answered_so(order, set(loose))
        for chosen in subsets(perhaps)
        for order in permutations((*surely, *chosen))
    )


def witness_against(accesses: Iterable[Access]) -> tuple[Entry, ...] | None:
    try:
        linearizable_register(accesses, at_least=0, initial=0)
    except Vacuous:
        return None
    except Broken as broken:
        return broken.witness
    return None


OUTCOMES = some.sampled_from([Outcome.OK] * 5 + [Outcome.UNKNOWN, Outcome.PENDING, Outcome.FAILED])
CALLS = some.builds(
    lambda start, took, outcome: call(start, start + took, outcome), some.integers(0, 6), some.integers(0, 3), OUTCOMES
)
VALUES = some.integers(0, 2)
ACCESSES = some.one_of(
    some.builds(Read, some.just("x"), VALUES, CALLS),
    some.builds(Write, some.just("x"), VALUES, CALLS),
    some.builds(lambda *seen, swapped: swap(*seen, swapped=swapped), VALUES, VALUES, CALLS, swapped=some.booleans()),
)
HISTORIES = some.lists(ACCESSES, max_size=5)

GOOD: dict[str, list[Access]] = {
    "a read at the same time as a write may see it": [Write("x", 1, call(0, 9)), Read("x", 1, call(1, 2))],
    "or not see it": [Write("x", 1, call(0, 9)), Read("x", 0, call(1, 2))],
    "those that only touch may go either way": [Write("x", 1, call(0, 1)), Read("x", 0, call(1, 2))],
    "an instant is an interval": [Write("x", 1, call(1, 1)), Read("x", 0, call(1, 1))],
    "a lost write may come late": [Write("x", 1, lost(0)), Read("x", 0, call(5, 6)), Read("x", 1, call(7, 8))],
    "or never": [Write("x", 1, lost(0)), Read("x", 0, call(5, 6))],
    "a pending one too": [Write("x", 1, call(0, 0, Outcome.PENDING)), Read("x", 1, call(5, 6))],
    "a lost swap may have swapped": [swap(0, 1, lost(0)), Read("x", 1, call(1, 2))],
    "a lost write of a value nobody reads explains a refused swap": [
        Write("x", 7, lost(0)),
        swap(0, 1, call(1, 2), swapped=False),
    ],
    "a lost read says nothing": [Write("x", 1, call(0, 1)), Read("x", 9, lost(2))],
    "a failed read says nothing": [Write("x", 1, call(0, 1)), Read("x", 9, call(2, 3, Outcome.FAILED))],
    "an equal value may come again": [
        Write("x", 1, call(0, 1)),
        Write("x", 2, call(2, 3)),
        Write("x", 1, call(4, 5)),
        Read("x", 1, call(6, 7)),
    ],
    "a write of what is there has its own moment": [
        Write("x", 0, call(0, 9)),
        Write("x", 1, call(1, 2)),
        Read("x", 0, call(3, 4)),
    ],
    "keys have nothing to do with each other": [Write("y", 1, call(0, 1)), Read("x", 0, call(2, 3))],
}

BAD: dict[str, list[Access]] = {
    "stale": [Write("x", 1, call(0, 1)), Read("x", 0, call(2, 3))],
    "from the future": [Read("x", 1, call(0, 1)), Write("x", 1, call(2, 3))],
    "from the future of a lost write": [Read("x", 1, call(0, 1)), Write("x", 1, lost(2))],
    "never written": [Write("x", 1, call(0, 1)), Read("x", 2, call(2, 3))],
    "a failed write was seen": [Write("x", 1, call(0, 1, Outcome.FAILED)), Read("x", 1, call(2, 3))],
    "the new value and then the old": [
        Write("x", 1, call(0, 9)),
        Read("x", 1, call(1, 2)),
        Read("x", 0, call(3, 4)),
    ],
    "a lost write came twice": [
        Write("x", 1, lost(0)),
        Read("x", 1, call(1, 2)),
        Write("x", 2, call(3, 4)),
        Read("x", 2, call(5, 6)),
        Read("x", 1, call(7, 8)),
        Write("x", 2, call(9, 10)),
        Read("x", 1, call(11, 12)),
    ],
    "two swaps of one value": [swap(0, 1, call(0, 5)), swap(0, 2, call(0, 5))],
    "a lost update": [
        Read("x", 0, call(0, 1)),
        swap(0, 1, call(2, 3)),
        swap(0, 2, call(2, 4), swapped=True),
        Read("x", 2, call(5, 6)),
    ],
    "a swap refused without reason": [swap(0, 1, call(0, 1), swapped=False)],
    "a refused swap swapped": [
        Write("x", 2, call(0, 1)),
        swap(0, 1, call(2, 3), swapped=False),
        Read("x", 1, call(4, 5)),
    ],
    "the second key": [Write("y", 1, call(0, 1)), Write("x", 1, call(0, 1)), Read("x", 0, call(2, 3))],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_some_order_explains_is_accepted(name: str) -> None:
    assert witness_against(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_order_explains_is_refused(name: str) -> None:
    assert witness_against(BAD[name])


@given(HISTORIES)
def test_a_history_is_refused_where_no_order_of_it_answers_so(history: list[Access]) -> None:
    assert (witness_against(history) is None) == some_order_explains(history)


def only_these_are_explained(history: Sequence[Access], kept: Sequence[Entry]) -> bool:
    """Whether some order explains those that are kept, if what the others wrote may be there at any time."""
    these = [access for access in history if any(access.call is entry for entry in kept)]
    loose = {
        access.new if isinstance(access, CompareAndSet) else access.value
        for access in history
        if not any(access is other for other in these) and access.call.outcome is not Outcome.FAILED
        if isinstance(access, Write) or (isinstance(access, CompareAndSet) and (access.swapped or not certain(access)))
    }
    return some_order_explains(these, loose)


@given(HISTORIES)
@example(BAD["a lost update"])
@example(BAD["the new value and then the old"])
def test_the_witness_contradicts_itself_whatever_the_others_did_and_nothing_in_it_can_be_left_out(
    history: list[Access],
) -> None:
    witness = witness_against(history)
    if witness is None:
        return
    assert not only_these_are_explained(history, witness)
    for left_out in witness:
        assert only_these_are_explained(history, [entry for entry in witness if entry is not left_out])


def of_a_register(seed: int, *, operations: int, clients: int, keys: int = 1) -> list[Access]:
    """What clients of a real register see: each operation takes effect at one instant inside its interval."""
    chance = random.Random(seed)
    free = [0.0] * clients
    planned = list[tuple[float, float, float]]()
    for number in range(operations):
        client = number % clients
        start = free[client] + chance.random() * 0.1
        effect = start + chance.random()
        free[client] = effect + chance.random()
        planned.append((effect, start, free[client]))
    values = dict[str, int]()
    seen = list[Access]()
    for number, (_, start, end) in enumerate(sorted(planned), start=1):
        key = f"x{chance.randrange(keys)}"
        value = values.get(key, 0)
        guess = value if chance.random() < 0.7 else value - 1
        unanswered = Outcome.UNKNOWN if chance.random() < 0.02 else Outcome.OK
        match chance.choice(["read", "write", "swap"]):
            case "read":
                seen.append(Read(key, value, call(start, end)))
            case "write":
                values[key] = number
                seen.append(Write(key, number, call(start, end, unanswered)))
            case _:
                values[key] = number if guess == value else value
                operation = call(start, end, unanswered)
                seen.append(CompareAndSet(key=key, expected=guess, new=number, swapped=guess == value, call=operation))
    chance.shuffle(seen)
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_a_long_history_of_a_register_is_accepted(seed: int) -> None:
    linearizable_register(of_a_register(seed, operations=300, clients=5, keys=2), at_least=50, initial=0)


@pytest.mark.parametrize("seed", range(5))
def test_one_stale_read_in_a_long_history_is_shown_with_few_operations(seed: int) -> None:
    history = of_a_register(seed, operations=200, clients=3)
    answered = [access for access in history if isinstance(access, Read) and certain(access)]
    late = max(answered, key=lambda access: access.call.start)
    early = min(answered, key=lambda access: access.call.start)
    assert late.value != early.value
    stale = replace(late, value=early.value)

    with pytest.raises(Broken) as broken:
        linearizable_register([stale if access is late else access for access in history], at_least=50, initial=0)

    assert stale.call in broken.value.witness
    assert len(broken.value.witness) <= 6


def test_the_message_says_who_contradicts_whom() -> None:
    old, new = Write("x", 1, Operation("a", "put", 0, 1, Outcome.OK)), Write("x", 2, Operation("b", "put", 2, 3))
    new.call.outcome = Outcome.OK
    seen = Read("x", 1, Operation("c", "get", 4, 5, Outcome.OK))
    beside = Read("x", 1, Operation("d", "get", 1.2, 1.8, Outcome.OK))
    with pytest.raises(
        Broken, match=r"^no order explains .* 'x' \(0 at first\): a wrote 1, b wrote 2, c read 1$"
    ) as it:
        linearizable_register([seen, beside, new, old], at_least=1, initial=0)
    assert it.value.witness == (old.call, new.call, seen.call)


def too_much_at_once(key: str) -> list[Access]:
    return [
        *(Write(key, number, call(0, 10)) for number in range(24)),
        *(Read(key, number, call(11 + number, 11.5 + number)) for number in (1, 2)),
    ]


def test_a_history_that_is_too_much_at_once_is_neither_accepted_nor_refused() -> None:
    with pytest.raises(TestbedError, match=r"'x' \(26 operations, up to 24 at once, 0 of unknown outcome\)") as refusal:
        linearizable_register(too_much_at_once("x"), at_least=1, within=2_000)
    assert not isinstance(refusal.value, Vacuous)


def test_a_violation_goes_before_what_cannot_be_decided() -> None:
    broken = [Write("y", 1, call(0, 1)), Read("y", 0, call(2, 3))]
    with pytest.raises(Broken, match="'y'"):
        linearizable_register([*too_much_at_once("x"), *broken], at_least=1, initial=0, within=2_000)


def test_lost_writes_that_nobody_saw_cost_nothing() -> None:
    unseen = [Write("x", 100 + number, lost(0)) for number in range(40)]
    linearizable_register([*unseen, Write("x", 1, call(1, 2)), Read("x", 1, call(3, 4))], at_least=1, within=10)


def test_lost_reads_cost_nothing() -> None:
    unanswered = [Read("x", None, lost(0)) for _ in range(40)]
    linearizable_register([*unanswered, Read("x", None, call(1, 2)), Write("x", 1, call(3, 4))], at_least=1, within=10)


def test_reads_at_once_cost_no_more_than_one_after_the_other() -> None:
    reads = [Read("x", 1, call(2, 3)) for _ in range(40)]
    linearizable_register([Write("x", 1, call(0, 1)), *reads], at_least=40, within=50)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([], "only 0 of 1 reads"),
        ([Write("x", 1, call(0, 1))], "only 0 of 1 reads"),
        ([Write("x", 1, call(0, 1)), Read("x", 1, lost(2))], "only 0 of 1 reads"),
        ([Read("x", 0, call(0, 1))], "nothing was written"),
        ([Read("x", 0, call(0, 1)), Write("x", 1, call(2, 3, Outcome.FAILED))], "nothing was written"),
        ([swap(1, 2, call(0, 1), swapped=False)], "nothing was written"),
    ],
)
def test_too_little_to_show_an_order_is_vacuous(history: list[Access], said: str) -> None:
    with pytest.raises(Vacuous, match=said):
        linearizable_register(history, at_least=1, initial=0)


def test_a_violation_goes_before_too_little() -> None:
    with pytest.raises(Broken):
        linearizable_register([Read("x", 1, call(0, 1))], at_least=9, initial=0)
