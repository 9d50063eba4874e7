"""Reads along on a connection to RabbitMQ: a request is a message that is published, or an acknowledgement.

client: basic.publish (channel 1, no. 7) …            a request, answered by the broker's confirm
broker:                       basic.ack (7)
client: basic.ack (delivery 3)                        a request that nobody answers: it is through once it is sent
"""

from collections import defaultdict, deque
from dataclasses import dataclass

from faultline.components.proxy.command import Command
from faultline.components.proxy.frames import Frame, Frames
from faultline.components.proxy.hold import Hold
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.piece import Piece, cut_at

METHOD, END = 1, 1  # the type of a method's frame; bytes behind each frame's body
PREFACE = 8  # bytes: AMQP 0 0 9 1
SELECT = b"\x00\x55\x00\x0a"  # confirm.select
PUBLISH, ACK, NACK, REJECT = b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78", b"\x00\x3c\x00\x5a"
SETTLE = {ACK: b"ACK", NACK: b"NACK", REJECT: b"REJECT"}


def _rest(head: bytes) -> int:
    return int.from_bytes(head[3:7]) + END


@dataclass(slots=True)
class _Published:
    number: int
    command: Command
    gate: Hold | None


class AmqpConversation:
    """A connection that speaks AMQP 0-9-1."""

    def __init__(self, connection: int, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._client = Frames(preface=PREFACE, head=7, rest=_rest)
        self._server = Frames(preface=0, head=7, rest=_rest)
        self._numbers: dict[bytes, int] = {}  # of the last message, by channel; there only if the broker confirms
        self._published: dict[bytes, deque[_Published]] = defaultdict(deque)

    def from_client(self, data: bytes, at: float) -> list[Piece]:
        """Each message and each acknowledgement that is held begins a piece of its own."""
        cuts: list[tuple[int, Hold]] = []
        sent: list[Command] = []
        for frame in self._client.feed(data):
            method = frame.body[:4] if frame.head[0] == METHOD else b""
            if method == SELECT:
                self._numbers[frame.head[1:3]] = 0
            elif method == PUBLISH:
                command = self._asked([b"PUBLISH", *_route(frame.body)], at)
                self._expect(frame, command)
                cuts += self._held(frame, command)
            elif verb := SETTLE.get(method):
                command = self._asked([verb], at)
                sent.append(command)
                cuts += self._held(frame, command)
        pieces = cut_at(data, at, cuts)
        pieces[-1].answers = sent or None
        return pieces

    def from_server(self, data: bytes, at: float) -> list[Piece]:
        """A confirm that is held begins a piece of its own."""
        cuts: list[tuple[int, Hold]] = []
        answered: list[Command] = []
        for frame in self._server.feed(data):
            if frame.head[0] == METHOD and frame.body[:4] in {ACK, NACK}:
                for one in self._confirmed(frame):
                    answered.append(one.command)
                    if one.gate:
                        one.gate.arrive(one.command)
                        cuts.append((frame.start, one.gate))
        pieces = cut_at(data, at, cuts)
        pieces[-1].answers = answered
        return pieces

    def passed_on(self, answered: list[Command]) -> None:
        """The confirm is with the client, or its acknowledgement on the way to the broker."""
        for command in answered:
            self._ledger.answered(command)

    def _asked(self, args: list[bytes], at: float) -> Command:
        command = Command(at, self._connection, args, handshake=False)
        self._ledger.commands.append(command)
        self._ledger.tally.requests += 1
        return command

    def _expect(self, frame: Frame, command: Command) -> None:
        channel = frame.head[1:3]
        if channel in self._numbers:
            self._numbers[channel] += 1
            gate = self._ledger.reply_hold(command)
            self._published[channel].append(_Published(self._numbers[channel], command, gate))

    def _held(self, frame: Frame, command: Command) -> list[tuple[int, Hold]]:
        hold = self._ledger.request_hold(command)
        if hold is None:
            return []
        hold.arrive(command)
        return [(frame.start, hold)]

    def _confirmed(self, frame: Frame) -> list[_Published]:
        number, several = int.from_bytes(frame.body[4:12]), bool(frame.body[12])
        waiting = self._published[frame.head[1:3]]
        found = [one for one in waiting if one.number == number or (several and one.number < number)]
        for one in found:
            waiting.remove(one)
        return found


def _route(body: bytes) -> list[bytes]:
    """The exchange and the routing key of a message."""
    names: list[bytes] = []
    at = 6  # behind the method and a reserved number
    for _ in range(2):
        size = body[at]
        names.append(body[at + 1 : at + 1 + size])
        at += 1 + size
    return names
