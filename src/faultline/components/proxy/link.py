"""One connection through the proxy: two sockets, two pipes between them.

client socket ──▶ pipe to server ──▶ server socket
              ◀── pipe to client ◀──
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from faultline.components.faults import Direction, Fate
from faultline.components.proxy.conversation import Conversation
from faultline.components.proxy.counts import Tally
from faultline.components.proxy.piece import Ending, Piece
from faultline.components.proxy.pipe import Pipe

_NO_LINGER = struct.pack("ii", 1, 0)
"""Makes close() send a reset."""


def reset(sock: socket.socket) -> None:
    """Close a socket that no transport owns, with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    sock.close()


class Link:
    """Joins a client's connection to a new one upstream; an end on one side reaches the other behind the bytes."""

    def __init__(self, number: int, *, conversation: Conversation, tally: Tally) -> None:
        self.number = number
        self._tally = tally
        self._conversation = conversation
        self.to_server = Pipe(Direction.TO_SERVER, around=self, sift=conversation.from_client, through=self._to_server)
        self.to_client = Pipe(Direction.TO_CLIENT, around=self, sift=conversation.from_server, through=self._to_client)
        self._client = _Leg(outbox=self.to_server, inbox=self.to_client, lost=self._lost)
        self._server = _Leg(outbox=self.to_client, inbox=self.to_server, lost=self._lost)
        self._over = False
        self._connecting: asyncio.Task[None] | None = None

    @property
    def upstream_port(self) -> int | None:
        """The port from which the server is connected to; None before and after."""
        transport = self._server.transport
        return transport.get_extra_info("sockname")[1] if transport and not self._server.closed.is_set() else None

    @property
    def client_port(self) -> int | None:
        """The port from which the client has connected; None before and after."""
        transport = self._client.transport
        return transport.get_extra_info("peername")[1] if transport and not self._client.closed.is_set() else None

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        """Both directions."""
        return self.to_server, self.to_client

    async def run(
        self, client: socket.socket, upstream: tuple[str, int], *, far: Callable[[], socket.socket] | None
    ) -> None:
        """Carry bytes until both sides are closed; on cancellation reset both. `far` makes the socket to the server.

        Where nobody listens upstream the client is reset: it was accepted already.
        """
        loop = asyncio.get_running_loop()
        self._connecting = asyncio.current_task()
        try:
            if self._over:  # reset before it began
                return
            await self._call(upstream, far)
            await loop.connect_accepted_socket(lambda: self._client, client)
            self._connecting = None
            await self._client.closed.wait()
            await self._server.closed.wait()
        except OSError:
            pass
        finally:
            self._connecting = None
            self.end(Fate.RESET)
            if self._client.transport is None:
                reset(client)
            for leg in (self._client, self._server):
                if leg.transport:
                    await leg.closed.wait()

    async def _call(self, upstream: tuple[str, int], far: Callable[[], socket.socket] | None) -> None:
        loop = asyncio.get_running_loop()
        if far is None:
            await loop.create_connection(lambda: self._server, *upstream)
            return
        sock = far()
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, upstream)
            await loop.create_connection(lambda: self._server, sock=sock)
        except BaseException:  # also when cancelled
            sock.close()
            raise

    def end(self, fate: Fate) -> None:
        """Close both sides now: in the orderly way after `CUT`, with a reset after `RESET`."""
        self._over = True
        for pipe in self.pipes:
            pipe.stop()
        if self._connecting and self._client.transport is None:
            self._connecting.cancel()
        for leg in (self._client, self._server):
            if fate is Fate.RESET:
                leg.reset()
            else:
                leg.close()

    def sender_reset(self) -> None:
        """What was before the reset is through: reset the other side too."""
        self.end(Fate.RESET)

    def drained(self) -> None:
        """Close once both sides have said goodbye."""
        if all(pipe.finished for pipe in self.pipes):
            self.end(Fate.CUT)

    def _lost(self, leg: "_Leg") -> None:
        if not self._over:
            leg.inbox.stop()
            leg.outbox.ended(Ending.RESET)

    def _to_server(self, count: int, piece: Piece) -> None:
        self._tally.bytes_to_server += count
        self._passed(piece)

    def _to_client(self, count: int, piece: Piece) -> None:
        self._tally.bytes_to_client += count
        self._passed(piece)

    def _passed(self, piece: Piece) -> None:
        if piece.answers and piece.sent == len(piece.data):
            self._conversation.passed_on(piece.answers)


class _Leg(asyncio.Protocol):
    """One of the two sockets: reads into the outbox, writes from the inbox."""

    def __init__(self, *, outbox: Pipe, inbox: Pipe, lost: Callable[["_Leg"], None]) -> None:
        self.outbox = outbox
        self.inbox = inbox
        self.closed = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.outbox.begins_at(self.transport)
        self.inbox.ends_at(self.transport)

    def data_received(self, data: bytes) -> None:
        self.outbox.arrived(data)

    def eof_received(self) -> bool:
        self.outbox.ended(Ending.EOF)
        return True  # half closed: the other direction goes on

    def pause_writing(self) -> None:
        self.inbox.choke()

    def resume_writing(self) -> None:
        self.inbox.unchoke()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.closed.set()
        self._lost(self)

    def close(self) -> None:
        if self.transport:
            self.transport.close()

    def reset(self) -> None:
        if self.transport and not self.closed.is_set():
            sock = cast("socket.socket", self.transport.get_extra_info("socket"))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.transport.abort()
