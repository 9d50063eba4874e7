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
from typing import Any

from faultline.testbed.history import Entry, Note, Operation, Outcome

_MARKS = {Outcome.OK: "└", Outcome.FAILED: "✗", Outcome.UNKNOWN: "?"}


def brief(value: Any, limit: int = 40) -> str:
    """`value` in a few characters."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def timeline(entries: Sequence[Entry], *, width: int = 100, pending_from: float | None = None) -> str:
    """The entries as columns within `width` characters; `pending_from`: where operations without an end are cut."""
    rows = sorted(_rows(entries, pending_from), key=lambda row: row[0])
    lanes = list(dict.fromkeys(lane for _, lane, _ in rows))
    if not lanes:
        return ""
    column = max(12, min(34, (width - 12) // len(lanes)))
    lines = [" " * 11 + "".join(f"{lane:<{column}}" for lane in lanes)]
    for at, lane, text in rows:
        left = " " * (column * lanes.index(lane))
        room = width - 11 - len(left)
        lines.append(f"{at:7.3f} s  {left}{brief(text, max(12, room))}")
    return "\n".join(line.rstrip() for line in lines)


def _rows(entries: Sequence[Entry], pending_from: float | None) -> list[tuple[float, str, str]]:
    rows = []
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
