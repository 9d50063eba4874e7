"""What went through a proxy, in numbers."""

from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True, slots=True)
class Counts:
    """What went through until now; the difference of two says what went through between.

    `bytes_to_server` and `bytes_to_client` were passed on, not only received.

    For Redis and PostgreSQL also (0 otherwise): a *request* is a complete command, MULTI, each queued command and
    EXEC one each.
    A *round trip* begins with a request on a connection that owes no reply, and ends when all replies owed on it
    have been passed on and no request is half sent: a pipeline of 100 commands is one, and so is what several
    tasks send over one connection while one of them waits. It is counted as it begins. A client that sends a
    pipeline in several writes may be overtaken by its first replies: then the count is higher, never lower.
    Requests that get no reply (CLIENT REPLY OFF, SKIP) make no round trip; SUBSCRIBE is answered once all its
    channels are confirmed; messages, invalidations and MONITOR lines are *pushes*, and answer nothing.
    A *handshake* is what client libraries say when they connect: HELLO, AUTH, SELECT, CLIENT SETINFO, SETNAME, CAPA,
    MAINT_NOTIFICATIONS before the connection's first other command. Handshakes and their round trips are not in
    `requests` and `round_trips`.
    For PostgreSQL a request is a statement that is executed (BEGIN and COMMIT too; several in one simple query are
    one), and a round trip ends with ReadyForQuery: preparing a statement costs a round trip and is no request. A
    handshake is a connection's start, pushes are notifications.
    `unread` connections stopped being read: a replica's stream, TLS, or another protocol.
    """

    accepted: int = 0
    open: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    requests: int = 0
    round_trips: int = 0
    handshakes: int = 0
    handshake_round_trips: int = 0
    pushes: int = 0
    unread: int = 0

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))


class Tally:
    """The counts while they run."""

    __slots__ = tuple(field.name for field in fields(Counts))

    accepted: int
    open: int
    bytes_to_server: int
    bytes_to_client: int
    requests: int
    round_trips: int
    handshakes: int
    handshake_round_trips: int
    pushes: int
    unread: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def counts(self) -> Counts:
        """As they are now."""
        return Counts(*(getattr(self, name) for name in self.__slots__))
