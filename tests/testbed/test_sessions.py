"""Session guarantees, by their definitions: a pair of events in one session."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from faultline.testbed import Broken, Note, Saw, Vacuous, Wrote, monotonic_reads, read_your_writes


def saw(version: int) -> Saw:
    return Saw(version, Note("a", f"saw {version}", 0.0))


def wrote(version: int) -> Wrote:
    return Wrote(version, Note("a", f"wrote {version}", 0.0))


Session = list[Saw | Wrote]
EVENTS = some.one_of(some.builds(saw, some.integers(0, 4)), some.builds(wrote, some.integers(0, 4)))
SESSIONS = some.dictionaries(some.sampled_from("abc"), some.lists(EVENTS, max_size=6), max_size=3)


def pairs(sessions: dict[str, Session], kind: type[Saw | Wrote]) -> list[tuple[Saw | Wrote, Saw | Wrote]]:
    return [
        (earlier, later)
        for session in sessions.values()
        for earlier, later in combinations(session, 2)
        if isinstance(earlier, kind) and isinstance(later, Saw)
    ]


def older(sessions: dict[str, Session], kind: type[Saw | Wrote]) -> bool:
    return any(later.version < earlier.version for earlier, later in pairs(sessions, kind))


@given(SESSIONS)
def test_reads_are_refused_where_one_session_went_back(sessions: dict[str, Session]) -> None:
    if older(sessions, Saw):
        with pytest.raises(Broken, match="after version"):
            monotonic_reads(sessions, at_least=0)
        return
    seen = {event.version for session in sessions.values() for event in session if isinstance(event, Saw)}
    if len(seen) < 2:
        with pytest.raises(Vacuous):
            monotonic_reads(sessions, at_least=0)
        return
    monotonic_reads(sessions, at_least=0)


@given(SESSIONS)
def test_reads_are_refused_where_a_session_missed_a_write_of_its_own(sessions: dict[str, Session]) -> None:
    if older(sessions, Wrote):
        with pytest.raises(Broken, match="after it had written"):
            read_your_writes(sessions, at_least=0)
        return
    read_your_writes(sessions, at_least=0)


def test_a_step_back_is_shown_by_the_two_reads() -> None:
    first, own, back = saw(2), wrote(3), saw(1)
    with pytest.raises(Broken, match=r"^session 'till' saw version 1 after version 2$") as broken:
        monotonic_reads({"other": [saw(9)], "till": [saw(1), first, own, back]}, at_least=1)
    assert broken.value.witness == (first.shown_by, back.shown_by)


def test_a_missed_write_is_shown_by_the_newest_own_write_and_the_read() -> None:
    newest, missed = wrote(5), saw(4)
    with pytest.raises(Broken, match=r"^session 'till' saw version 4 after it had written version 5$") as broken:
        read_your_writes({"other": [saw(1)], "till": [wrote(3), newest, wrote(2), missed]}, at_least=1)
    assert broken.value.witness == (newest.shown_by, missed.shown_by)


@pytest.mark.parametrize("session", [[], [saw(1)], [saw(1), wrote(2)]])
def test_monotonic_reads_of_too_few_are_vacuous(session: Session) -> None:
    with pytest.raises(Vacuous, match="only 0 of 1 reads followed another"):
        monotonic_reads({"a": session, "b": [saw(2)]}, at_least=1)


def test_monotonic_reads_of_one_version_are_vacuous() -> None:
    with pytest.raises(Vacuous, match="nothing older"):
        monotonic_reads({"a": [saw(1), saw(1)], "b": [saw(1)]}, at_least=1)


@pytest.mark.parametrize("session", [[], [wrote(1)], [saw(1), wrote(2)]])
def test_read_your_writes_of_too_few_are_vacuous(session: Session) -> None:
    with pytest.raises(Vacuous, match="only 0 of 1 reads followed a write"):
        read_your_writes({"a": session, "b": [saw(2)]}, at_least=1)


def test_a_violation_goes_before_too_little() -> None:
    with pytest.raises(Broken):
        monotonic_reads({"a": [saw(2), saw(1)]}, at_least=9)
    with pytest.raises(Broken):
        read_your_writes({"a": [wrote(2), saw(1)]}, at_least=9)
