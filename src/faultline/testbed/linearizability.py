"""Linearizability: operations on a register look as if each happened at one instant between its call and its answer.

The search is Wing & Gong's (1993) with Lowe's memory of what was tried (2017), as in Knossos and Porcupine: take one
operation after the other that may come next, go back where an answer does not fit, and never look twice at a
configuration (what was taken, and the value it leaves). Own code, because PyPI has no checker: Knossos is Clojure,
Porcupine is Go, the packages called so do other things, and a second runtime for a hundred lines is no bargain.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from faultline.testbed.errors import Broken, TestbedError, Vacuous
from faultline.testbed.history import Operation, Outcome
from faultline.testbed.timeline import brief


@dataclass(frozen=True, slots=True)
class Read:
    """`call` read `value` from the register `key`; says nothing unless it ended ok."""

    key: Hashable
    value: Hashable
    call: Operation


@dataclass(frozen=True, slots=True)
class Write:
    """`call` wrote `value` to the register `key`."""

    key: Hashable
    value: Hashable
    call: Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareAndSet:
    """`call` set the register `key` to `new` if it was `expected`; `swapped` is its answer, read if it ended ok."""

    key: Hashable
    expected: Hashable
    new: Hashable
    swapped: bool = False
    call: Operation


Access = Read | Write | CompareAndSet

_SHRINK_WITHIN = 2_000  # configurations for each attempt to show the violation with fewer operations


def linearizable_register(
    accesses: Iterable[Access], *, at_least: int, initial: Hashable = None, within: int = 100_000
) -> None:
    """Some order of the operations on each key explains every answer and keeps to real time.

    Keys are judged one by one (linearizability is local); each holds `initial` at first. An operation that ended
    before another began comes before it; if they only touch, either may come first. One that failed had no effect;
    one whose outcome is unknown, or that still runs, may take effect at any time after its call, or never. `failed`
    must therefore be certain: the history calls whatever raised failed, so a check sets the outcome of a call that
    raised a timeout or a lost connection to unknown before it comes here.

    `Broken` carries operations that contradict each other, even if every value that the others wrote was there at
    any time; normally none of them can be left out. `Vacuous` if fewer than `at_least` reads and compare-and-sets
    were answered, or nothing was written. A violation goes before both: it is certain however little was seen.

    Time and memory: for n operations of which c run at once, u unknown ones whose value someone looks for, and v
    values, at most n · 2^c · 2^u · v configurations; reads that fit cost no branch, so a few clients need about n.
    Above `within` configurations for a key it gives up with a `TestbedError`, rather than hang.
    """
    by_key = dict[Hashable, list[Access]]()
    for access in accesses:
        by_key.setdefault(access.key, []).append(access)
    undecided = list[str]()
    for key, of_key in by_key.items():
        steps = sorted(_steps(of_key), key=lambda step: step.start)
        explained = _explained(steps, initial, within)
        if explained is False:
            raise _broken(key, steps, initial)
        if explained is None:
            undecided.append(f"{key!r} ({_size(steps)})")
    if undecided:
        raise TestbedError(
            f"too much at once to decide within {within} configurations: {', '.join(undecided)}; "
            "let fewer clients run at once, spread them over more keys, or leave fewer calls unanswered"
        )
    _require_evidence([access for of_key in by_key.values() for access in of_key], at_least)


def _require_evidence(accesses: Sequence[Access], at_least: int) -> None:
    answered = [one for one in accesses if one.call.outcome is Outcome.OK and not isinstance(one, Write)]
    if len(answered) < at_least:
        raise Vacuous(f"only {len(answered)} of {at_least} reads were answered: too few to show an order")
    if not any(_changes(one) and one.call.outcome is not Outcome.FAILED for one in accesses):
        raise Vacuous(f"nothing was written: {len(answered)} reads had only one value to see")


class _Step(NamedTuple):
    """An access that counts, and when it may take effect; without an `end` perhaps never."""

    access: Access
    start: float
    end: float

    @property
    def certain(self) -> bool:
        return self.end < inf


class _Configuration(NamedTuple):
    """Where a search stands: every certain step before `first` was taken, and those whose bit is set."""

    first: int
    taken: int  # bit i: the certain step first + i
    opened: int  # bit i: the step i of those that may never happen
    value: Hashable


def _steps(accesses: Iterable[Access]) -> Iterator[_Step]:
    for access in accesses:
        call = access.call
        if call.outcome is Outcome.OK:
            assert call.end is not None
            yield _Step(access, call.start, call.end)
        elif call.outcome is not Outcome.FAILED and not isinstance(access, Read):
            yield _Step(access, call.start, inf)


def _explained(
    steps: Sequence[_Step], initial: Hashable, within: int, loose: frozenset[Hashable] = frozenset()
) -> bool | None:
    """Whether some order explains the steps, which are sorted by start; None if `within` did not suffice.

    The values in `loose` may be in the register at any time, as often as anyone looks.
    """
    certain = [step for step in steps if step.certain]
    opened = [step for step in steps if not step.certain and _may_matter(step, steps)]
    stack = [_Configuration(0, 0, 0, initial)]
    seen = set(stack)
    while stack:
        here = stack.pop()
        if here.first == len(certain):
            return True
        for there in _next(here, certain, opened, loose):
            if there not in seen:
                seen.add(there)
                stack.append(there)
        if len(seen) > within:
            return None
    return False


def _next(
    here: _Configuration, certain: Sequence[_Step], opened: Sequence[_Step], loose: frozenset[Hashable]
) -> list[_Configuration]:
    """The configurations one step on; where a step that changes nothing fits, only that: no order needs it later."""
    found = list[_Configuration]()
    until = inf  # whoever begins later comes after a step that was not taken yet
    for index in range(here.first, len(certain)):
        step, bit = certain[index], 1 << (index - here.first)
        if step.start > until:
            break
        if here.taken & bit:
            continue
        until = min(until, step.end)
        if _fits(step, here.value, loose):
            there = _taken(here, bit, _after(step, here.value))
            if not _changes(step.access):
                return [there]
            found.append(there)
    for index, step in enumerate(opened):
        bit = 1 << index
        if step.start <= until and not here.opened & bit and _fits(step, here.value, loose):
            found.append(here._replace(opened=here.opened | bit, value=_after(step, here.value)))
    return found


def _taken(here: _Configuration, bit: int, value: Hashable) -> _Configuration:
    first, taken = here.first, here.taken | bit
    while taken & 1:
        first, taken = first + 1, taken >> 1
    return _Configuration(first, taken, here.opened, value)


def _fits(step: _Step, value: Hashable, loose: frozenset[Hashable]) -> bool:
    match step.access:
        case Read(value=seen):
            return seen == value or seen in loose
        case CompareAndSet(expected=expected) if _changes(step.access):
            return expected == value or expected in loose
        case CompareAndSet(expected=expected):
            return expected != value or bool(loose - {expected})
        case Write():
            return True


def _after(step: _Step, value: Hashable) -> Hashable:
    match step.access:
        case CompareAndSet(new=new) if _changes(step.access):
            return new
        case Write(value=new):
            return new
        case _:
            return value


def _changes(access: Access) -> bool:
    """Whether it can have changed the value."""
    if isinstance(access, CompareAndSet):
        return access.swapped or access.call.outcome is not Outcome.OK
    return isinstance(access, Write)


def _may_matter(step: _Step, steps: Sequence[_Step]) -> bool:
    """Whether a step that may never happen can explain anything: someone looks for its value, or for another."""
    value = _after(step, None)
    return any(_looks_for(other, value) for other in steps)


def _looks_for(step: _Step, value: Hashable) -> bool:
    match step.access:
        case Read(value=seen):
            return seen == value
        case CompareAndSet(expected=expected):
            return expected == value or not _changes(step.access)
        case _:
            return False


def _broken(key: Hashable, steps: Sequence[_Step], initial: Hashable) -> Broken:
    shown = _contradiction(steps, initial)
    said = ", ".join(f"{step.access.call.lane} {_said(step)}" for step in shown[:4])
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return Broken(
        f"no order explains the register {key!r} ({brief(initial)} at first): {said}{more}",
        [step.access.call for step in shown],
    )


def _contradiction(steps: Sequence[_Step], initial: Hashable) -> list[_Step]:
    """Few steps that no order explains, even if every value that the others wrote was there at any time.

    Halves, quarters, … down to single steps are left out, the latest first, as long as the rest contradicts itself.
    What contradicts itself still does so with more steps, so that one pass is enough.
    """
    kept = set(range(len(steps)))
    size = len(steps)
    while size:
        remaining = sorted(kept, reverse=True)
        for at in range(0, len(remaining), size):
            fewer = kept.difference(remaining[at : at + size])
            loose = frozenset(
                _after(step, None) for index, step in enumerate(steps) if index not in fewer and _changes(step.access)
            )
            if _explained([steps[index] for index in sorted(fewer)], initial, _SHRINK_WITHIN, loose) is False:
                kept = fewer
        size //= 2
    return [steps[index] for index in sorted(kept)]


def _said(step: _Step) -> str:
    unknown = "" if step.certain else " (outcome unknown)"
    match step.access:
        case Read(value=value):
            return f"read {brief(value)}"
        case Write(value=value):
            return f"wrote {brief(value)}{unknown}"
        case CompareAndSet(expected=expected, new=new, swapped=swapped):
            answer = unknown or (" (swapped)" if swapped else " (refused)")
            return f"set {brief(expected)} to {brief(new)}{answer}"


def _size(steps: Sequence[_Step]) -> str:
    at_once = max(sum(other.start <= step.start <= other.end for other in steps) for step in steps)
    unknown = sum(not step.certain for step in steps)
    return f"{len(steps)} operations, up to {at_once} at once, {unknown} of unknown outcome"
