"""What stands at the end of an edge in a test: it hears requests as they arrive, and answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Heard:
    """A request; the names of headers are in small letters."""

    method: str
    target: str
    lines: list[tuple[str, str]] = field(repr=False)
    body: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        """Of each name the last one."""
        return dict(self.lines)


Behaviour = Callable[[Heard, asyncio.StreamWriter], Awaitable[None]]


async def fine(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """200, and the connection stays."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


async def silent(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Nothing, ever."""
    await asyncio.Event().wait()


async def cut(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Half an answer, and the connection breaks."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()


class Outside:
    """An HTTP server for a block."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.does: Behaviour = fine
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server
        self._server.close()
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    @property
    def address(self) -> str:
        """Such as `127.0.0.1:41234`."""
        assert self._server
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def anew(self, does: Behaviour) -> None:
        """Forget what was heard, and do this from now on."""
        self.heard.clear()
        self.does = does

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    await self._turn(reader, writer)
        finally:
            writer.transport.abort()

    async def _turn(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        lines = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in rest if line)]
        method, target, _ = first.split()
        body = await reader.readexactly(int(dict(lines).get("content-length", "0")))
        heard = Heard(method, target, lines, body)
        self.heard.append(heard)
        await self.does(heard, writer)
        await writer.drain()
