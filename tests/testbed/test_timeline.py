"""A history's picture: readable, and never wider than asked."""

from hypothesis import given
from hypothesis import strategies as some

from faultline.testbed import Entry, Note, Operation, Outcome, timeline

PICTURE = """\
           till-1                            till-2
  0.004 s  acquire(timeout=1)
  0.006 s  └ Lease(token=1)
  0.007 s  ■ paused (SIGSTOP)
  0.011 s                                    acquire(timeout=1)
  0.511 s  release()
  0.900 s                                    ✗ LockUnavailable
  1.000 s  ? process gone
  1.250 s                                    acquire(timeout=5)
  2.000 s                                    … still in acquire(timeout=5)"""


def test_the_picture() -> None:
    entries: list[Entry] = [
        Operation("till-1", "acquire(timeout=1)", 0.004, 0.006, Outcome.OK, "Lease(token=1)"),
        Note("till-1", "paused (SIGSTOP)", 0.007),
        Operation("till-2", "acquire(timeout=1)", 0.011, 0.9, Outcome.FAILED, "LockUnavailable"),
        Operation("till-1", "release()", 0.511, 1.0, Outcome.UNKNOWN, "process gone"),
        Operation("till-2", "acquire(timeout=5)", 1.25),
    ]
    assert timeline(entries, width=80, pending_from=2.0) == PICTURE


WORDS = some.text(some.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=60)
LANES = some.sampled_from([f"till-{number}" for number in range(12)] + ["a lane with a name that is far too long"])
ENTRIES = some.lists(
    some.builds(
        Operation,
        lane=LANES,
        what=WORDS,
        start=some.floats(0, 900),
        end=some.none() | some.floats(0, 900),
        outcome=some.sampled_from([Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN]),
        value=WORDS | some.none() | some.just("two\nlines"),
    )
    | some.builds(Note, LANES, WORDS, some.floats(0, 900)),
    max_size=20,
)


@given(ENTRIES, some.integers(40, 160))
def test_no_line_is_wider_than_asked_and_none_is_lost(entries: list[Entry], width: int) -> None:
    lines = timeline(entries, width=width, pending_from=901.0).splitlines()
    assert all(len(line) <= width for line in lines)
    rows = sum(1 if isinstance(entry, Note) else 2 for entry in entries)
    assert len([line for line in lines if " s  " in line[:13]]) == rows


def test_more_lanes_than_fit_are_named_in_each_line() -> None:
    notes = [Note(f"till-{number}", "sells", number / 10) for number in range(10)]
    assert timeline(notes, width=60).splitlines()[9] == "  0.900 s  till-9: ■ sells"


def test_nothing_has_no_picture() -> None:
    assert timeline([]) == ""
