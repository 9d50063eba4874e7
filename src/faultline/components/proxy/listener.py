"""A port that can be closed and opened again without being lost to another program."""

import asyncio
import socket
from collections.abc import Callable

HOST = "127.0.0.1"
BACKLOG = 128


class Listener:
    """Listens on one loopback port, kept reserved by a second socket that is bound and never listens.

    (The streams of asyncio are not used: since Python 3.12 `Server.wait_closed` waits for every connection.)
    """

    def __init__(self, accepted: Callable[[socket.socket], None], make: Callable[[], socket.socket]) -> None:
        self._accepted = accepted
        self._make = make
        self._reserved = self._bound(0)
        self._listening: socket.socket | None = None
        self.port: int = self._reserved.getsockname()[1]

    def open(self) -> None:
        """Accept connections from now on."""
        if self._listening is None:
            self._listening = self._bound(self.port)
            self._listening.listen(BACKLOG)
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def shut(self) -> None:
        """Refuse connections from now on; those not accepted yet are reset by the kernel."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def close(self) -> None:
        """Give the port back."""
        self.shut()
        self._reserved.close()

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection.setblocking(False)
        self._accepted(connection)

    def _bound(self, port: int) -> socket.socket:
        sock = self._make()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((HOST, port))
        return sock
