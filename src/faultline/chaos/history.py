"""What the shop's clients have asked and been told, written down as it happens: JSON, one line a beginning or an end.

    history = History(path)
    with history.operation("ada", "place", key="k1") as operation:     # the line that it began is on disk
        answer = await …
        operation.ok(id=answer["id"])                                  # or .failed(…): it surely did not happen

An operation that its client has left without either is *unknown*: it may have happened, or may still. So is one whose
client was killed, since only the line of its beginning is there. Instants are seconds of the machine's monotonic clock,
which all its processes share.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Outcome(StrEnum):
    """How an operation ended."""

    OK = "ok"
    FAILED = "failed"
    """It has no effect, and never will."""
    UNKNOWN = "unknown"


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the file; the two of an operation have one number."""

    number: int
    client: str
    what: str
    at: float
    asked: dict[str, Any] = {}
    outcome: Literal["", "ok", "failed", "unknown"] = ""
    told: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One request of a client, as its history has it."""

    client: str
    what: str
    asked: dict[str, Any]
    invoked: float
    ended: float
    """Infinite where the client never saw an end."""
    outcome: Outcome
    told: dict[str, Any]


class Open:
    """An operation that its client is waiting for."""

    def __init__(self) -> None:
        self.outcome = Outcome.UNKNOWN
        self.told: dict[str, Any] = {}

    def ok(self, **told: Any) -> None:
        """It has happened, and this was the answer."""
        self.outcome, self.told = Outcome.OK, told

    def failed(self, **told: Any) -> None:
        """It was refused, for good."""
        self.outcome, self.told = Outcome.FAILED, told

    def unknown(self, **told: Any) -> None:
        """There was no answer, or none that says whether it happened."""
        self.outcome, self.told = Outcome.UNKNOWN, told


class History:
    """Written by one process; each line is with the system before the request goes out, or the answer is used."""

    def __init__(self, path: Path) -> None:
        """Goes on behind what is in the file; a last line that a kill has cut off goes."""
        self.path = path
        if path.exists() and not (before := path.read_bytes()).endswith(b"\n"):
            path.write_bytes(before[: before.rfind(b"\n") + 1])
        self._numbers = count(1 + max((line.number for line in _lines(path)), default=0))

    @contextmanager
    def operation(self, client: str, what: str, **asked: Any) -> Iterator[Open]:
        """What the block does is one operation; an exception leaves it unknown, and passes."""
        number, one = next(self._numbers), Open()
        self._write(_Line(number, client, what, monotonic(), asked=asked))
        try:
            yield one
        finally:
            line = _Line(number, client, what, monotonic(), outcome=one.outcome.value, told=one.told)
            self._write(line)

    def operations(self) -> list[Operation]:
        """All until now."""
        return read(self.path)

    def _write(self, line: _Line) -> None:
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def read(path: Path) -> list[Operation]:
    """The operations in the order in which they began; none if there is no such file."""
    begun: dict[int, _Line] = {}
    ended: dict[int, _Line] = {}
    for line in _lines(path):
        (ended if line.outcome else begun)[line.number] = line
    return [_operation(line, ended.get(number)) for number, line in begun.items()]


def _operation(begin: _Line, end: _Line | None) -> Operation:
    return Operation(
        client=begin.client,
        what=begin.what,
        asked=begin.asked,
        invoked=begin.at,
        ended=end.at if end else float("inf"),
        outcome=Outcome(end.outcome) if end else Outcome.UNKNOWN,
        told=end.told if end else {},
    )


def _lines(path: Path) -> Iterator[_Line]:
    """A last line that was cut off by a kill is left out: nobody has acted on it."""
    if not path.exists():
        return
    for raw in path.read_bytes().splitlines(keepends=True):
        if raw.endswith(b"\n"):
            yield msgspec.json.decode(raw, type=_Line)
