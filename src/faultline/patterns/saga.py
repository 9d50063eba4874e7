"""A saga: what is done over several services, step by step, and undone step by step if it cannot be finished.

    checkout = Saga("checkout", version=1, within=30.0, steps=(
        Step("reserve", act=inventory.reserve, undo=inventory.release, ask=inventory.reservation),
        Step("capture", act=payment.capture, ask=payment.captured, kind="pivot"),
        Step("confirm", act=orders.confirm, kind="retriable"),
    ))

Here is what a saga is, and what comes next in it, without a clock or a database; `orchestrator` carries it out.

         compensatable …      pivot        retriable …
    ──► reserve ──► … ──► capture ──► confirm ──► … ──► done
    ◄── release ◄── … ◄── refused, or too late              after the pivot: forward only
    undone

**What a participant promises.** Each step of each saga has one key, the same at every attempt, and the same for `act`,
`undo` and `ask`. A key takes effect once. `undo` of a key that was never seen succeeds, and an `act` that comes after
the `undo` of its key is refused: then it does not matter which of a late request and its undoing arrives first.

**What an answer means.** `act`, `undo` and `ask` end in one of four ways:

- they return: it has happened; what `act` or `ask` gives is added to the saga's data. `ask` gives None if it has not.
- `StepRefused`: it has not happened, and never will under this key (a declined card); what it has `told` is added to
  the saga's data, for the steps that are undone.
- `NotTried`, as of an open circuit: it was not sent; try again.
- anything else, a `TimeoutError` above all: *unknown*. It may have happened, so nobody guesses: the next to do is
  `ask`, or, where a step has none, the same call with the same key.

**Isolation** is what a saga has none of: others see it half done. Mark what is not final (an order is pending), and
refuse what would rely on it.

Sources: Garcia-Molina and Salem, *Sagas* (1987); Richardson, *Microservices Patterns* (2018), chapter 4, for the pivot
and the kinds of steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from faultline.patterns.errors import SagaDesignError

Data: TypeAlias = Mapping[str, Any]
Call: TypeAlias = Callable[[str, Data], Awaitable[Data | None]]
"""Takes the step's key and the saga's data, gives what is to be added to the data."""

Kind: TypeAlias = Literal["compensatable", "pivot", "retriable"]
Outcome: TypeAlias = Literal["done", "refused", "not tried", "unknown"]
Status: TypeAlias = Literal["running", "done", "undone", "stuck"]
"""`stuck`: what must not fail was refused, so it is for a human."""

ORDER: tuple[str, ...] = ("compensatable", "pivot", "retriable")


@dataclass(frozen=True, slots=True)
class Step:
    """One local transaction of one service."""

    name: str
    act: Call
    undo: Call | None = None
    ask: Call | None = None
    kind: Kind = "compensatable"
    timeout: float = 1.0
    """Seconds for each call; then it counts as unknown."""
    attempts: int = 5
    """After how many a saga that may turn back does."""
    base: float | None = None
    """Seconds: the longest that the first pause may be, instead of the orchestrator's `base`. Longer for what is
    answered by a message, which ends the pause: to ask sooner is to ask in vain."""


class Place(NamedTuple):
    """Where a saga is: what it has to do next."""

    direction: Literal["forward", "back"]
    step: int


@dataclass(frozen=True, slots=True)
class Saga:
    """A definition. Raises `SagaDesignError` for one that could get stuck half-way by design."""

    name: str
    version: int
    """Raise it with every change of the steps: sagas that have begun go on as they began."""
    steps: tuple[Step, ...]
    within: float | None = None
    """Seconds until the pivot: a saga that is not so far turns back."""

    def __post_init__(self) -> None:
        kinds = [step.kind for step in self.steps]
        names = [step.name for step in self.steps]
        if not names or not self.name or len(set(names)) < len(names) or not all(names):
            raise SagaDesignError(f"{self.name}: steps need names of their own, not {names}")
        if kinds.count("pivot") > 1:
            raise SagaDesignError(f"{self.name} has two points of no return: {kinds}")
        if kinds != sorted(kinds, key=ORDER.index):
            raise SagaDesignError(
                f"{self.name}: what can be undone first, then the pivot, then what is retried: {kinds}"
            )
        for step in self.steps:
            if step.kind == "compensatable" and step.undo is None:
                raise SagaDesignError(f"{self.name}: {step.name} cannot be undone, and comes before the pivot")
            if step.timeout <= 0 or step.attempts < 1 or (step.base is not None and step.base < 0):
                raise SagaDesignError(
                    f"{self.name}: {step.name} has {step.attempts} attempts of {step.timeout} s, after {step.base} s"
                )

    def before(self, place: Place, *, in_doubt: bool, late: bool) -> Place | Status:
        """What to do instead, if it is too late for what would be next.

        In doubt it is the step itself that is undone first; one that cannot be undone is brought to an end, however
        late it is.
        """
        step = self.steps[place.step]
        if place.direction == "back" or not late or step.kind == "retriable":
            return place
        if not in_doubt:
            return _back(place.step - 1)
        return place if step.undo is None else _back(place.step)

    def after(self, place: Place, outcome: Outcome, *, in_doubt: bool, spent: bool) -> Place | Status:
        """What comes next; the same place for another attempt. `spent`: so many attempts have been made as may be."""
        step = self.steps[place.step]
        if outcome == "refused":
            return "stuck" if place.direction == "back" or step.kind == "retriable" else _back(place.step - 1)
        if outcome != "done":
            return self.before(place, in_doubt=in_doubt, late=spent)
        if place.direction == "back":
            return _back(place.step - 1)
        return "done" if place.step + 1 == len(self.steps) else Place("forward", place.step + 1)


def _back(step: int) -> Place | Status:
    return "undone" if step < 0 else Place("back", step)
