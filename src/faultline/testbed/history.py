"""What happened in a check, in order: operations of the learner's code, and what the testbed did to it.

An operation is *invoked* and ends *ok*, *failed* (it raised), or *unknown* (its process was killed, or the check
ended first): the four words of Jepsen's histories. Instants are seconds since the check began, on the grader's
monotonic clock, so they compare across processes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How an operation ended."""

    PENDING = "pending"
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Operation:
    """One call of the learner's code; `end` is None while it runs."""

    lane: str
    what: str
    start: float
    end: float | None = None
    outcome: Outcome = Outcome.PENDING
    value: Any = None

    @property
    def took(self) -> float:
        """Seconds from invocation to return; infinite while it runs."""
        return float("inf") if self.end is None else self.end - self.start


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened at one instant: a fault, or a fact that the check wants in the picture."""

    lane: str
    text: str
    at: float


Entry = Operation | Note


@dataclass(slots=True)
class History:
    """The record of one check, in the order of invocation."""

    entries: list[Entry] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Seconds since the check began."""
        return time.monotonic() - self.began

    def invoke(self, lane: str, what: str) -> Operation:
        """Record that `what` begins now; the caller ends it with `ok`, `failed` or `unknown`."""
        operation = Operation(lane, what, self.now())
        self.entries.append(operation)
        return operation

    def complete(self, operation: Operation, outcome: Outcome, value: Any = None) -> None:
        """Record that the operation ends now."""
        operation.end = self.now()
        operation.outcome = outcome
        operation.value = value

    def note(self, lane: str, text: str) -> Note:
        """Record a fact of this instant."""
        entry = Note(lane, text, self.now())
        self.entries.append(entry)
        return entry

    def operations(self, what: str | None = None) -> list[Operation]:
        """The operations, or those called `what`, in the order of invocation."""
        return [
            entry
            for entry in self.entries
            if isinstance(entry, Operation) and (what is None or entry.what.split("(")[0] == what)
        ]

    def pending(self) -> list[Operation]:
        """Operations that have not ended."""
        return [operation for operation in self.operations() if operation.outcome is Outcome.PENDING]

    def around(self, witness: Sequence[Entry], limit: int = 10) -> list[Entry]:
        """The witness, and what else happened meanwhile in its lanes and to the servers, at most `limit` entries.

        Without a witness: what still runs, and what happened last. The witness and what still runs go before the
        rest when there is not room for all.
        """
        first = min(map(_start, witness), default=0.0)
        last = max(map(_last, witness), default=self.now())
        lanes = {entry.lane for entry in witness or self.entries}
        shown = [entry for entry in self.entries if first <= _last(entry) and _start(entry) <= last]
        first_of_all = {id(entry) for entry in witness or self.pending()}
        needed = [entry for entry in shown if id(entry) in first_of_all]
        notes = [entry for entry in shown if isinstance(entry, Note)]
        others = [entry for entry in shown if entry.lane in lanes]
        chosen = set[int]()  # by identity: two that are equal may both have happened
        for entry in (*needed, *reversed(notes), *reversed(others)):
            if len(chosen) < limit:
                chosen.add(id(entry))
        return [entry for entry in self.entries if id(entry) in chosen]


def _start(entry: Entry) -> float:
    return entry.at if isinstance(entry, Note) else entry.start


def _last(entry: Entry) -> float:
    if isinstance(entry, Note):
        return entry.at
    return float("inf") if entry.end is None else entry.end
