"""Reads along on a connection to PostgreSQL: each statement is a request, what `ReadyForQuery` ends a round trip.

client: Parse Bind Execute Parse Bind Execute Sync        one batch, two statements
server:                 … CommandComplete … CommandComplete ReadyForQuery
"""

import re
from collections import deque
from dataclasses import dataclass, field

from faultline.components.pgwire import CANCEL_REQUEST, GSS_REQUEST, SSL_REQUEST, Message, Messages, text
from faultline.components.proxy.command import Command
from faultline.components.proxy.hold import Hold
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.piece import Piece, cut_at
from faultline.components.proxy.trips import Trips
from faultline.components.proxy_errors import NotPostgres

_COMPLETIONS = frozenset({b"C", b"I", b"E", b"s", b"V"})
_ENDS = frozenset({b"Q", b"F", b"E", b"S"})
_VERB = re.compile(rb"\s*([A-Za-z]+)?\s*(.*)", re.DOTALL)


@dataclass(slots=True)
class _Batch:
    """What one ReadyForQuery answers: a simple query, or everything up to a Sync."""

    marker: Command
    simple: bool
    statements: list[Command] = field(default_factory=list)
    gates: deque[Hold | None] = field(default_factory=deque)  # of the statements whose reply has not begun


class PostgresConversation:
    """A connection that speaks PostgreSQL's protocol 3, until it says something else: TLS, or a replica's stream."""

    def __init__(self, connection: int, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._client = Messages(untyped=True)
        self._server = Messages(untyped=False)
        self._prepared: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}
        self._batches: deque[_Batch] = deque()
        self._open: _Batch | None = None  # to be ended by a Sync
        self._trips = Trips()
        self._greeting = True
        self._copying = False
        self._reading = True

    def from_client(self, data: bytes, at: float) -> list[Piece]:
        """A statement that is to be held begins a piece of its own, with what prepares it as far as it is in here."""
        cuts: list[tuple[int, Hold]] = []
        begins: int | None = None
        try:
            for message in self._client.feed(data) if self._reading else ():
                if not message.ended:
                    continue
                begins = (message.start or 0) if begins is None else begins
                if hold := self._said(message, at):
                    cuts.append((begins, hold))
                if message.kind in _ENDS:
                    begins = None
        except NotPostgres:
            self._stop_reading()
        return cut_at(data, at, cuts)

    def from_server(self, data: bytes, at: float) -> list[Piece]:
        """The message that says that a statement is done, well or badly, likewise."""
        cuts: list[tuple[int, Hold]] = []
        answered: list[Command] = []
        try:
            for message in self._server.feed(data) if self._reading else ():
                if message.start is not None and (hold := self._completed(message.kind)):
                    cuts.append((message.start, hold))
                if message.ended:
                    answered += self._heard(message)
        except NotPostgres:
            self._stop_reading()
        pieces = cut_at(data, at, cuts)
        pieces[-1].answers = answered
        return pieces

    def passed_on(self, answered: list[Command]) -> None:
        """What ReadyForQuery ended is with the client."""
        for command in answered:
            self._trips.answer(more_to_come=self._client.partial)
            self._ledger.answered(command)

    def _said(self, message: Message, at: float) -> Hold | None:
        match message.kind:
            case b"":
                self._introduced(int.from_bytes(message.body[:4]))
            case b"Q" | b"F":
                batch = self._begun(at, simple=True)
                return self._statement(batch, text(message.body), at)
            case b"P":
                self._begun(at)
                self._prepared[text(message.body)] = text(message.body, 1)
            case b"B":
                self._begun(at)
                self._portals[text(message.body)] = self._prepared.get(text(message.body, 1), b"")
            case b"D" | b"C":
                self._begun(at)
            case b"E":
                return self._statement(self._begun(at), self._portals.get(text(message.body), b""), at)
            case b"S":
                self._synced(at)
            case _:  # data of a COPY, a password, the goodbye
                pass
        return None

    def _introduced(self, code: int) -> None:
        if code in {SSL_REQUEST, GSS_REQUEST}:
            self._server.single += 1
        elif code == CANCEL_REQUEST:
            self._reading = False
        else:
            self._client.untyped = False
            self._ledger.tally.handshakes += 1
            self._ledger.tally.handshake_round_trips += 1

    def _begun(self, at: float, *, simple: bool = False) -> _Batch:
        if self._open is None:
            batch = _Batch(Command(at, self._connection, [b"Sync"], handshake=False), simple)
            self._batches.append(batch)
            self._ledger.tally.round_trips += self._trips.ask()
            if simple:
                return batch
            self._open = batch
        return self._open

    def _synced(self, at: float) -> None:
        if self._copying:  # the server ignores the first Sync of a COPY, and answers the one behind the data
            self._copying = False
            return
        self._begun(at)
        self._open = None

    def _statement(self, batch: _Batch, sql: bytes, at: float) -> Hold | None:
        match = _VERB.match(sql)
        words = [word for word in (match.groups() if match else (sql,)) if word]
        command = Command(at, self._connection, words or [b"(nothing)"], handshake=False)
        self._ledger.commands.append(command)
        self._ledger.tally.requests += 1
        self._trips.ask()
        batch.statements.append(command)
        batch.gates.append(self._ledger.reply_hold(command))
        hold = self._ledger.request_hold(command)
        if hold:
            hold.arrive(command)
        return hold

    def _completed(self, kind: bytes) -> Hold | None:
        """The hold on the statement that a message of this kind ends; a simple query ends with ReadyForQuery."""
        batch = self._batches[0] if self._batches else None
        if self._greeting or batch is None or not batch.gates:
            return None
        if kind != b"Z" if batch.simple else kind not in _COMPLETIONS:
            return None
        command = batch.statements[-len(batch.gates)]
        hold = batch.gates.popleft()
        if hold:
            hold.arrive(command)
        return hold

    def _heard(self, message: Message) -> list[Command]:
        match message.kind:
            case b"" if message.body != b"N":
                raise NotPostgres("TLS follows")
            case b"A":
                self._ledger.tally.pushes += 1
            case b"G":
                self._copying = bool(self._batches) and not self._batches[0].simple
            case b"W":
                raise NotPostgres("a replica's stream follows")
            case b"Z" if self._greeting:
                self._greeting = False
            case b"Z" if self._batches:
                batch = self._batches.popleft()
                return [*batch.statements, batch.marker]
            case _:
                pass
        return []

    def _stop_reading(self) -> None:
        self._reading = False
        self._ledger.tally.unread += 1
