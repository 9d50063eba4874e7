"""A history as text: time runs down, one column a process.

```
            till-1              till-2
 0.004 s    acquire(timeout=1)
 0.006 s    └ Lease(token=1)
 0.006 s    ■ paused
 0.511 s                        acquire(timeout=1)
```
"""

from collections.abc import Sequence
from reprlib import Repr
from typing import Any

from faultline.testbed.history import Entry, Note, Operation, Outcome

_CLOCK = 11  # characters
_NARROWEST, _WIDEST = 12, 34  # characters of a column
_cut = Repr()  # a value may have a million items
_cut.maxlist = _cut.maxtuple = _cut.maxdict = _cut.maxset = 40
_cut.maxstring = _cut.maxlong = _cut.maxother = 200
_MARKS = {Outcome.OK: "└", Outcome.FAILED: "✗", Outcome.UNKNOWN: "?"}


def brief(value: Any, limit: int = 40) -> str:
    """`value` in a few characters, on one line."""
    text = value if isinstance(value, str) else _cut.repr(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= limit else text[: limit - 1] + "…"


def timeline(entries: Sequence[Entry], *, width: int = 100, pending_from: float | None = None) -> str:
    """The entries as columns within `width` characters; `pending_from`: where operations without an end are cut.

    With more lanes than columns fit, one column in which each line names its lane.
    """
    rows = sorted(_rows(entries, pending_from), key=lambda row: row[0])
    lanes = list(dict.fromkeys(lane for _, lane, _ in rows))
    if not lanes:
        return ""
    room = width - _CLOCK
    column = min(_WIDEST, room // len(lanes))
    if column < _NARROWEST:
        return "\n".join(f"{at:7.3f} s  {brief(f'{lane}: {text}', room)}".rstrip() for at, lane, text in rows)
    lines = [" " * _CLOCK + "".join(f"{brief(lane, column - 1):<{column}}" for lane in lanes)]
    for at, lane, text in rows:
        left = " " * (column * lanes.index(lane))
        lines.append(f"{at:7.3f} s  {left}{brief(text, room - len(left))}")
    return "\n".join(line.rstrip() for line in lines)


def _rows(entries: Sequence[Entry], pending_from: float | None) -> list[tuple[float, str, str]]:
    rows = list[tuple[float, str, str]]()
    for entry in entries:
        if isinstance(entry, Note):
            rows.append((entry.at, entry.lane, f"■ {entry.text}"))
            continue
        rows.append((entry.start, entry.lane, entry.what))
        rows.extend(_ending(entry, pending_from))
    return rows


def _ending(operation: Operation, pending_from: float | None) -> list[tuple[float, str, str]]:
    if operation.end is not None:
        value = "" if operation.value is None else f" {brief(operation.value, 200)}"
        return [(operation.end, operation.lane, f"{_MARKS[operation.outcome]}{value}")]
    if pending_from is None:
        return []
    return [(pending_from, operation.lane, f"… still in {operation.what}")]
