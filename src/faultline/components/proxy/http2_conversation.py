"""Reads along on a connection that speaks HTTP/2, as gRPC does: a stream is a request, its end the reply.

client: HEADERS (stream 5) DATA (stream 5, end)
server:                        HEADERS (5) DATA (5) HEADERS (5, end)

Headers are compressed with the connection's memory; a path is told where it stands in plain letters, which is so for
the first call of each method on a connection. After that a call has no name here.
"""

import re
from dataclasses import dataclass

from faultline.components.proxy.command import Command
from faultline.components.proxy.frames import Frames
from faultline.components.proxy.hold import Hold
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.piece import Piece, cut_at

DATA, HEADERS, RESET = 0, 1, 3
END_STREAM = 1
PREFACE = 24  # bytes: PRI * HTTP/2.0 …
_PATH = re.compile(rb"/[\w.]+/\w+")


def _rest(head: bytes) -> int:
    return int.from_bytes(head[:3])


@dataclass(slots=True)
class _Call:
    command: Command
    gate: Hold | None


class Http2Conversation:
    """A connection on which each stream is one request and one reply."""

    def __init__(self, connection: int, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._client = Frames(preface=PREFACE, head=9, rest=_rest)
        self._server = Frames(preface=0, head=9, rest=_rest)
        self._calls: dict[int, _Call] = {}

    def from_client(self, data: bytes, at: float) -> list[Piece]:
        """The frame that begins a stream begins a piece if it is held."""
        cuts: list[tuple[int, Hold]] = []
        for frame in self._client.feed(data):
            kind, stream = frame.head[3], int.from_bytes(frame.head[5:9])
            if kind == RESET:
                self._calls.pop(stream, None)
            if kind != HEADERS or stream in self._calls:
                continue
            path = _PATH.search(frame.body)
            command = Command(at, self._connection, [b"CALL", path.group() if path else b""], handshake=False)
            self._ledger.commands.append(command)
            self._ledger.tally.requests += 1
            self._calls[stream] = _Call(command, self._ledger.reply_hold(command))
            if hold := self._ledger.request_hold(command):
                hold.arrive(command)
                cuts.append((frame.start, hold))
        return cut_at(data, at, cuts)

    def from_server(self, data: bytes, at: float) -> list[Piece]:
        """The first frame of a reply likewise."""
        cuts: list[tuple[int, Hold]] = []
        answered: list[Command] = []
        for frame in self._server.feed(data):
            kind, flags, stream = frame.head[3], frame.head[4], int.from_bytes(frame.head[5:9])
            call = self._calls.get(stream)
            if call is None or kind not in {DATA, HEADERS, RESET}:
                continue
            if call.gate:
                gate, call.gate = call.gate, None
                gate.arrive(call.command)
                cuts.append((frame.start, gate))
            if flags & END_STREAM or kind == RESET:
                answered.append(self._calls.pop(stream).command)
        pieces = cut_at(data, at, cuts)
        pieces[-1].answers = answered
        return pieces

    def passed_on(self, answered: list[Command]) -> None:
        """The end of the reply is with the client."""
        for command in answered:
            self._ledger.answered(command)
