"""Reads along on a connection of an unknown protocol: one turn is what the client says until the server speaks.

Enough for protocols in which a client asks, waits for the answer, and asks again, such as HTTP/1.1.
"""

from faultline.components.proxy.command import Command
from faultline.components.proxy.hold import Hold
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.piece import Piece, cut_at


class TurnsConversation:
    """A request is the first bytes of a turn; its reply begins with the server's next bytes."""

    def __init__(self, connection: int, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._asked: Command | None = None  # whose answer has not begun
        self._gate: Hold | None = None

    def from_client(self, data: bytes, at: float) -> list[Piece]:
        """The first bytes of a turn begin a piece; the rest of it queues behind them."""
        if self._asked is not None:
            return [Piece(at, data)]
        first = data.split(b"\r\n", 1)[0][:200]
        self._asked = Command(at, self._connection, first.split(b" ", 2) or [b""], handshake=False)
        self._ledger.commands.append(self._asked)
        self._ledger.tally.requests += 1
        self._ledger.tally.round_trips += 1
        self._gate = self._ledger.reply_hold(self._asked)
        hold = self._ledger.request_hold(self._asked)
        if hold:
            hold.arrive(self._asked)
        return cut_at(data, at, [(0, hold)] if hold else [])

    def from_server(self, data: bytes, at: float) -> list[Piece]:
        """The first bytes of an answer likewise."""
        asked, gate = self._asked, self._gate
        self._asked = self._gate = None
        if gate and asked:
            gate.arrive(asked)
        pieces = cut_at(data, at, [(0, gate)] if gate else [])
        pieces[-1].answers = [asked] if asked else []
        return pieces

    def passed_on(self, answered: list[Command]) -> None:
        """The answer has begun to be there."""
        for command in answered:
            self._ledger.answered(command)
