"""What queues in a stream."""

from dataclasses import dataclass
from enum import Enum

from faultline.components.proxy.command import Command
from faultline.components.proxy.hold import Hold
from faultline.components.proxy.injected import Injected


class Ending(Enum):
    """How a stream ends: its sender said goodbye, or was torn away."""

    EOF = "eof"
    RESET = "reset"


@dataclass(slots=True, eq=False)
class Piece:
    """Bytes that came at `at` and have left up to `sent`; or, without bytes, the stream's ending."""

    at: float
    data: bytes = b""
    ending: Ending | None = None
    gate: Hold | None = None
    """Nothing of this piece leaves before this is open."""
    answers: list[Command] | None = None
    """The requests whose replies are complete with this piece; or, towards the server, that need none."""
    sent: int = 0
    delays: tuple[tuple[Injected, float], ...] = ()
    struck_by: tuple[Injected, ...] = ()

    def strike(self, by: Injected) -> None:
        """Count a hit, once for this piece."""
        if by not in self.struck_by:
            self.struck_by += (by,)
            by.hit()


def cut_at(data: bytes, at: float, cuts: list[tuple[int, Hold]]) -> list[Piece]:
    """The bytes in pieces, so that a new one with its hold begins at each cut."""
    if not cuts:
        return [Piece(at, data)]
    ends = [start for start, _ in cuts[1:]] + [len(data)]
    pieces = [Piece(at, data[: cuts[0][0]])] if cuts[0][0] else []
    return pieces + [Piece(at, data[start:end], gate=hold) for (start, hold), end in zip(cuts, ends, strict=True)]
