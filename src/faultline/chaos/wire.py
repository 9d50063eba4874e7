"""What of all that goes over the wire is an edge: a commit, a message, its confirm, an acknowledgement, a call.

Reading changes nothing, and a process that dies before or after it dies in the same state. So of the statements to
PostgreSQL those count that write, alone or as the COMMIT of a transaction; it is named after its first write.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faultline.components.proxy import Command

WRITE = re.compile(
    rb"\b(INSERT\s+INTO\s+\S+|UPDATE\s+(?!SKIP\b|OF\b)\S+\s+(?:AS\s+\S+\s+)?SET\s+\w+|DELETE\s+FROM\s+\S+)",
    re.IGNORECASE,
)
NAME = re.compile(rb"[A-Za-z][A-Za-z-]*|v\d+")  # of a path's parts, those that are not somebody's id
LONGEST = 24


class Reader:
    """Names the edges of one proxy; of PostgreSQL it remembers what each connection has begun."""

    def __init__(self) -> None:
        self._writing: dict[int, str] = {}
        self._in_transaction: set[int] = set()

    def edge(self, command: Command) -> str | None:
        """What this request is, without whose; None if it is no edge."""
        verb = command.args[0].upper()
        if verb == b"PUBLISH":
            return f"publish {command.args[2].decode(errors='replace')}"
        if verb in {b"ACK", b"NACK", b"REJECT"}:
            return {b"ACK": "acknowledge"}.get(verb, verb.decode().lower())
        if verb == b"CALL":
            return "call"
        if command.args[-1].startswith(b"HTTP/1."):
            return f"{verb.decode()} {_path(command.args[1])}"
        return self._statement(verb, b" ".join(command.args), command.connection)

    def _statement(self, verb: bytes, text: bytes, connection: int) -> str | None:
        if verb == b"BEGIN":
            self._in_transaction.add(connection)
            return None
        if verb in {b"COMMIT", b"ROLLBACK"} and not text.upper().startswith(b"ROLLBACK TO"):
            self._in_transaction.discard(connection)
            written = self._writing.pop(connection, None)
            return f"COMMIT of {written}" if written and verb == b"COMMIT" else None
        write = WRITE.search(text)
        if write is None:
            return None
        what = b" ".join(write.group().split()).decode(errors="replace").replace('"', "")
        if connection not in self._in_transaction:
            return what
        self._writing.setdefault(connection, what)
        return None


def _path(path: bytes) -> str:
    parts = path.partition(b"?")[0].split(b"/")
    return "/".join(part.decode() if not part or _is_name(part) else "…" for part in parts)


def _is_name(part: bytes) -> bool:
    return len(part) <= LONGEST and bool(NAME.fullmatch(part))
