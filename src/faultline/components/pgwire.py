"""Tells the messages of PostgreSQL's protocol 3 apart, in either direction, fed with chunks that are split anywhere.

Only boundaries, kinds and the first bytes of each message are kept. What a kind means is the reader's business.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from faultline.components.proxy_errors import NotPostgres

KEPT = 4096
"""Bytes of each message that are kept."""

LONGEST = 2**30
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102


@dataclass(frozen=True, slots=True)
class Message:
    """A message that began (at `start` of this chunk) or ended in this chunk; `start` is None if it began before.

    `kind` is its first byte, empty for what has none: what a client says before it has named its user, and the
    server's one-byte answer to the question for TLS. `body` is there once it `ended`.
    """

    kind: bytes
    start: int | None
    ended: bool
    body: bytes = b""


class Messages:
    """The messages of one direction; `untyped` while they have no kind, `single` bytes come before the next one."""

    def __init__(self, *, untyped: bool) -> None:
        self.untyped = untyped
        self.single = 0
        self._head = bytearray()
        self._body = bytearray()
        self._left: int | None = None

    @property
    def partial(self) -> bool:
        """Whether the last chunk ended inside a message."""
        return bool(self._head)

    def feed(self, data: bytes) -> Iterator[Message]:
        """What begins or ends in these bytes; set `untyped` and `single` between two of them."""
        at = 0
        start: int | None = None
        while at < len(data):
            if self.single and not self._head:
                self.single -= 1
                yield Message(b"", at, ended=True, body=data[at : at + 1])
                at += 1
                continue
            if not self._head:
                start = at
            at = self._take_head(data, at) if self._left is None else self._take_body(data, at)
            if self._left == 0:
                yield Message(self._kind(), start, ended=True, body=bytes(self._body))
                self._reset()
                start = None
        if start is not None and self._head:
            yield Message(self._kind(), start, ended=False)

    def _take_head(self, data: bytes, at: int) -> int:
        size = 4 if self.untyped else 5
        taken = data[at : at + size - len(self._head)]
        self._head += taken
        if len(self._head) == size:
            self._left = int.from_bytes(self._head[-4:]) - 4
            if not 0 <= self._left <= LONGEST:
                raise NotPostgres(f"no message begins with {bytes(self._head)!r}")
        return at + len(taken)

    def _take_body(self, data: bytes, at: int) -> int:
        assert self._left is not None
        count = min(self._left, len(data) - at)
        self._body += data[at : at + min(count, KEPT - len(self._body))]
        self._left -= count
        return at + count

    def _kind(self) -> bytes:
        return b"" if self.untyped else bytes(self._head[:1])

    def _reset(self) -> None:
        self._head.clear()
        self._body.clear()
        self._left = None


def text(body: bytes, number: int = 0) -> bytes:
    """The `number`-th of the zero-terminated strings that a message begins with."""
    parts = body.split(b"\0", number + 1)
    return parts[number] if number < len(parts) else b""
