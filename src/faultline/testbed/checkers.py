"""Checkers: what a history must never show, whatever the timing.

Each takes what was observed and raises `Broken` with the entries that show the violation. Each counts only what
is certain: an interval begins when the grader *learned* of it and ends when the grader *asked* for its end, so a
slow machine can hide a violation but never invent one.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from faultline.testbed.errors import Broken, Vacuous
from faultline.testbed.history import Entry, Operation


@dataclass(frozen=True, slots=True)
class Held:
    """`holder` certainly had the thing from `start` to `end` (seconds); `shown_by` are the entries that say so.

    An interval that ends before it starts says nothing and does not count.
    """

    holder: str
    start: float
    end: float
    shown_by: tuple[Entry, ...] = ()


def mutual_exclusion(held: Iterable[Held], *, at_least: int) -> None:
    """No two holders at once; `Vacuous` if fewer than `at_least` intervals were seen.

    Intervals that only touch do not overlap. O(n log n): if any two overlap, two neighbours in the order of their
    starts do.
    """
    certain = (interval for interval in held if interval.end >= interval.start)
    ordered = sorted(certain, key=lambda interval: (interval.start, interval.end))
    if len(ordered) < at_least:
        raise Vacuous(f"only {len(ordered)} of {at_least} acquisitions were seen: too few to show exclusion")
    for earlier, later in zip(ordered, ordered[1:], strict=False):
        if later.start < earlier.end:
            raise Broken(
                f"{earlier.holder} and {later.holder} both held it, for "
                f"{(min(earlier.end, later.end) - later.start) * 1000:.0f} ms",
                (*earlier.shown_by, *later.shown_by),
            )


def any_window_rate(admitted: Iterable[Operation], *, limit: int, per: float, at_least: int) -> None:
    """No half-open window [t, t + per) of `per` seconds, wherever it begins, holds more than `limit` admissions.

    Each was admitted at some instant between its call and its answer. Counted are those that lie in the window with
    both. `Vacuous` if fewer than `at_least` were answered: who admits nobody keeps every rate. It is enough to look at
    the windows that begin with a call. O(n^2).
    """
    by_end = sorted(((one.end, one.start, one) for one in admitted if one.end is not None), key=itemgetter(0))
    if len(by_end) < at_least:
        raise Vacuous(f"only {len(by_end)} of {at_least} admissions were seen: too few to show a rate")
    ends = [end for end, _, _ in by_end]
    for _, start, first in sorted(by_end, key=itemgetter(1)):
        within = [one for _, began, one in by_end[: bisect_left(ends, start + per)] if began >= start]
        if len(within) > limit:
            took = (within[-1].end or start) - start
            seen = f"{len(within)} were admitted within {took:.2f} s; promised are {limit} in any {per:g} s"
            raise Broken(seen, (first, *within[-3:]))


def conservation(before: Mapping[str, int], after: Mapping[str, int], *, what: str) -> None:
    """Nothing came out of nothing and nothing was lost: the totals are equal; `what` names the thing counted.

    `Vacuous` if there was nothing to lose.
    """
    if not before:
        raise Vacuous(f"no {what} were there before: nothing could be lost")
    total_before, total_after = sum(before.values()), sum(after.values())
    if total_before != total_after:
        word = "lost" if total_after < total_before else "made from nothing"
        difference = abs(total_after - total_before)
        raise Broken(
            f"{difference} {what} {word}: {total_before} before {dict(before)}, {total_after} after {dict(after)}"
        )


def strictly_increasing(values: Sequence[tuple[int, Entry]], *, what: str) -> None:
    """Every value is larger than the one before it in the sequence; `Vacuous` for fewer than two."""
    if len(values) < 2:
        raise Vacuous(f"{len(values)} {what} seen: nothing could be compared")
    for (earlier, shown_first), (later, shown_second) in zip(values, values[1:], strict=False):
        if later <= earlier:
            raise Broken(f"{what} {later} came after {what} {earlier}", (shown_first, shown_second))
