"""A request as the proxy saw it."""

from collections.abc import Callable
from dataclasses import dataclass

Match = Callable[[list[bytes]], bool]
"""Whether a request, given as its arguments, is one of those meant."""

HANDSHAKES = frozenset({b"HELLO", b"AUTH", b"SELECT"})
CLIENT_HANDSHAKES = frozenset({b"SETINFO", b"SETNAME", b"CAPA", b"MAINT_NOTIFICATIONS"})


@dataclass(frozen=True, slots=True)
class Command:
    """A request that reached the proxy at `at` (seconds on the monotonic clock, as `time.monotonic()`).

    Of a Redis command the arguments, each to 4 KiB; of a statement to PostgreSQL its first word and the rest, without
    its parameters. A `handshake` is what a client says on its own when it connects.
    """

    at: float
    connection: int
    args: list[bytes]
    handshake: bool

    def __str__(self) -> str:
        words = b" ".join(arg[:40] for arg in self.args[:6]).decode(errors="backslashreplace")
        return f"#{self.connection} {words}{' …' if len(self.args) > 6 else ''}"


def named(*names: str) -> Match:
    """Matches requests by the command's name, in any case."""
    wanted = {name.upper().encode() for name in names}
    return lambda args: args[0].upper() in wanted


def saying(*words: str) -> Match:
    """Matches requests that contain all these words, in any case and order: statements of SQL, or keys."""
    wanted = [word.lower().encode() for word in words]

    def matches(args: list[bytes]) -> bool:
        said = b" ".join(args).lower()
        return all(word in said for word in wanted)

    return matches


def is_handshake(args: list[bytes]) -> bool:
    """Whether a request that opens a connection is the client library's own: HELLO, AUTH, SELECT, CLIENT SETINFO …"""
    name = args[0].upper()
    if name == b"CLIENT":
        return len(args) > 1 and args[1].upper() in CLIENT_HANDSHAKES
    return name in HANDSHAKES
