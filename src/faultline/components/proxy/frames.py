"""Cuts a stream of bytes into frames whose size stands in their head, as AMQP 0-9-1 and HTTP/2 have them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

KEPT = 512
"""Bytes of each frame that are kept: enough for what is asked for, a method and its names."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that ended in this chunk; it began at `start` of this chunk, or at 0 if it began before."""

    start: int
    head: bytes
    body: bytes


class Frames:
    """The frames of one direction, behind a `preface` of so many bytes."""

    def __init__(self, *, preface: int, head: int, rest: Callable[[bytes], int]) -> None:
        """`head`: bytes of each frame's head. `rest`: how many bytes follow such a head."""
        self._skip = preface
        self._size = head
        self._rest = rest
        self._head = bytearray()
        self._body = bytearray()
        self._left = -1

    def feed(self, data: bytes) -> Iterator[Frame]:
        """What ends in these bytes."""
        at = min(self._skip, len(data))
        self._skip -= at
        start = 0 if self._head else at
        while at < len(data):
            if self._left < 0:
                taken = data[at : at + self._size - len(self._head)]
                self._head += taken
                at += len(taken)
                if len(self._head) < self._size:
                    return
                self._left = self._rest(bytes(self._head))
            count = min(self._left, len(data) - at)
            self._body += data[at : at + min(count, KEPT - len(self._body))]
            self._left -= count
            at += count
            if self._left == 0:
                yield Frame(start, bytes(self._head), bytes(self._body))
                self._head.clear()
                self._body.clear()
                self._left = -1
                start = at
