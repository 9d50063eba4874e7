"""Reads along on one connection: logs and counts requests, pairs replies with them, says where to hold.

It never changes a byte and never waits for more of them: what it returns, joined, is what it was given.
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from faultline.components.proxy.command import Command, is_handshake
from faultline.components.proxy.expectations import Expectations, confirms, ends_resp, is_confirmation
from faultline.components.proxy.hold import Hold
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.piece import Piece, cut_at
from faultline.components.proxy.trips import Trips
from faultline.components.proxy_errors import NotResp
from faultline.components.resp import Reply, ReplyParser, Request, RequestParser


class Conversation(Protocol):
    """One connection as a protocol sees it."""

    def from_client(self, data: bytes, at: float) -> list[Piece]:
        """Bytes for the server, in pieces that may be held one by one."""
        ...

    def from_server(self, data: bytes, at: float) -> list[Piece]:
        """Bytes for the client, likewise."""
        ...

    def passed_on(self, answered: list[Command]) -> None:
        """The replies to these requests are with the client."""


class Unread:
    """A connection whose bytes are nobody's business."""

    def from_client(self, data: bytes, at: float) -> list[Piece]:
        """As they came."""
        return [Piece(at, data)]

    def from_server(self, data: bytes, at: float) -> list[Piece]:
        """As they came."""
        return [Piece(at, data)]

    def passed_on(self, answered: list[Command]) -> None:
        """Of no interest."""


@dataclass(slots=True)
class _Asked:
    command: Command
    owed: int
    confirmed: bool
    gate: Hold | None


class RedisConversation:
    """A connection that speaks RESP 2 or 3, until it says something else."""

    def __init__(self, connection: int, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._requests = RequestParser()
        self._replies = ReplyParser()
        self._expectations = Expectations()
        self._asked: deque[_Asked] = deque()
        self._trips = Trips()
        self._handshake_trips = Trips()
        self._greeting = True
        self._reading = True

    def from_client(self, data: bytes, at: float) -> list[Piece]:
        """Each request that a hold claims begins a piece of its own."""
        if not self._reading:
            return [Piece(at, data)]
        cuts: list[tuple[int, Hold]] = []
        try:
            requests = self._requests.feed(data)
            cuts.extend((request.start, hold) for request in requests if (hold := self._request(request, at)))
        except NotResp:
            self._stop_reading()
        return cut_at(data, at, cuts)

    def from_server(self, data: bytes, at: float) -> list[Piece]:
        """Each reply that is held begins a piece of its own."""
        if not self._reading:
            return [Piece(at, data)]
        cuts: list[tuple[int, Hold]] = []
        answered: list[Command] = []
        try:
            for reply in self._replies.feed(data):
                if reply.start is not None and (hold := self._held(reply)):
                    cuts.append((reply.start, hold))
                if reply.ended and (asked := self._answers(reply)):
                    answered.append(asked.command)
        except NotResp:
            self._stop_reading()
        pieces = cut_at(data, at, cuts)
        pieces[-1].answers = answered
        return pieces

    def passed_on(self, answered: list[Command]) -> None:
        """A round trip ends when nothing is owed and no request is half sent."""
        for command in answered:
            trips = self._handshake_trips if command.handshake else self._trips
            trips.answer(more_to_come=self._requests.partial)
            if not command.handshake:
                self._ledger.answered(command)

    def _request(self, request: Request, at: float) -> Hold | None:
        self._greeting = self._greeting and is_handshake(request.args)
        command = Command(at, self._connection, request.args, self._greeting)
        self._ledger.commands.append(command)
        owed = self._expectations.owed(request.args)
        self._count(command, owed)
        if ends_resp(request.args):
            raise NotResp("a replica's stream follows")
        if owed:
            gate = None if command.handshake else self._ledger.reply_hold(command)
            self._asked.append(_Asked(command, owed, confirms(request.args), gate))
        hold = None if command.handshake else self._ledger.request_hold(command)
        if hold:
            hold.arrive(command)
        return hold

    def _count(self, command: Command, owed: int) -> None:
        tally = self._ledger.tally
        if command.handshake:
            tally.handshakes += 1
            tally.handshake_round_trips += bool(owed and self._handshake_trips.ask())
        else:
            tally.requests += 1
            tally.round_trips += bool(owed and self._trips.ask())

    def _held(self, reply: Reply) -> Hold | None:
        """The hold on the request that this reply, only begun perhaps, is taken to answer."""
        if not self._asked or reply.kind == b">":
            return None
        asked = self._asked[0]
        hold, asked.gate = asked.gate, None
        if hold:
            hold.arrive(asked.command)
        return hold

    def _answers(self, reply: Reply) -> _Asked | None:
        """The request that this reply completes the answer to."""
        asked = self._asked[0] if self._asked else None
        if asked and asked.confirmed and is_confirmation(reply):
            asked.owed -= 1
        elif asked is None or self._expectations.is_push(reply, confirming=asked.confirmed):
            self._ledger.tally.pushes += 1
            return None
        else:
            asked.owed = 0
            self._expectations.answered(asked.command.args, reply)
        return self._asked.popleft() if not asked.owed else None

    def _stop_reading(self) -> None:
        self._reading = False
        self._ledger.tally.unread += 1
