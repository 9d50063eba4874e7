"""A history keeps what happened in order, and picks what shows a violation."""

from faultline.testbed import History, Operation, Outcome


def ended(history: History, lane: str, what: str) -> Operation:
    operation = history.invoke(lane, what)
    history.complete(operation, Outcome.OK)
    return operation


def test_an_operation_has_an_end_once_it_is_complete() -> None:
    history = History()
    operation = history.invoke("till-1", "acquire(timeout=1)")
    assert (operation.outcome, operation.end, operation.took) == (Outcome.PENDING, None, float("inf"))
    assert history.pending() == [operation]

    history.complete(operation, Outcome.FAILED, "LockUnavailable")

    assert operation.end is not None
    assert operation.took == operation.end - operation.start >= 0
    assert (operation.outcome, operation.value, history.pending()) == (Outcome.FAILED, "LockUnavailable", [])


def test_operations_are_found_by_the_name_of_what_was_called() -> None:
    history = History()
    acquired, _ = ended(history, "till-1", "acquire(timeout=1)"), ended(history, "till-1", "acquired_at")
    history.note("till-1", "acquire")
    assert history.operations("acquire") == [acquired]
    assert len(history.operations()) == 2


def test_the_witness_and_the_faults_are_chosen_before_all_else() -> None:
    history = History()
    first = history.invoke("till-1", "acquire()")
    for number in range(30):
        ended(history, "till-1", f"ask({number})")
        ended(history, "till-2", f"ask({number})")
    fault = history.note("network", "reset")
    second = ended(history, "till-2", "acquire()")
    history.complete(first, Outcome.OK)
    unrelated = ended(history, "till-3", "acquire()")

    chosen = history.around((first, second), limit=4)

    assert chosen[0] is first
    assert chosen[-1] is second
    assert any(entry is fault for entry in chosen)
    assert len(chosen) == 4
    assert not any(entry is unrelated for entry in history.around((first, second), limit=100))


def test_what_happens_while_a_witness_runs_is_chosen() -> None:
    history = History()
    running = history.invoke("till-1", "acquire()")
    paused = history.note("redis-1", "paused")
    history.complete(running, Outcome.OK)
    assert history.around((running,)) == [running, paused]


def test_equal_entries_are_not_taken_for_each_other() -> None:
    first, twin = Operation("a", "get()", 1.0, 2.0, Outcome.OK), Operation("a", "get()", 1.0, 2.0, Outcome.OK)
    chosen = History([first, twin]).around((first,), limit=1)
    assert len(chosen) == 1
    assert chosen[0] is first


def test_without_a_witness_what_still_runs_is_chosen_and_then_the_latest() -> None:
    history = History()
    stuck = history.invoke("till-1", "acquire()")
    others = [ended(history, "till-2", f"get({number})") for number in range(30)]
    chosen = history.around((), limit=5)
    assert chosen[0] is stuck
    assert [id(one) for one in chosen[1:]] == [id(one) for one in others[-4:]]
