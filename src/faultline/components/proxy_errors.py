"""What the fault proxy raises.

ProxyError
├── NotReached      refused: the requests to hold did not come; nothing was held, a retry is safe
├── NeedsProtocol   refused: holds read commands, and this proxy was not told the protocol
├── NotResp         refused: these bytes are not RESP; the proxy passes them on unread
└── NotPostgres     refused: these bytes are not PostgreSQL's protocol; likewise
"""


class ProxyError(Exception):
    """Root of the tree."""


class NotReached(ProxyError, TimeoutError):
    """The awaited requests did not all come; what came instead is in the message."""


class NeedsProtocol(ProxyError):
    """A hold or barrier was asked of a proxy that reads no commands."""

    def __init__(self) -> None:
        super().__init__(
            'this proxy reads no commands: start it with FaultProxy(..., protocol="redis"), "postgres" or "turns"'
        )


class NotResp(ProxyError):
    """The bytes are not RESP, so what follows cannot be told apart."""


class NotPostgres(ProxyError):
    """The bytes are not PostgreSQL's protocol, or a part of it that has no statements."""
