"""An HTTP service whose answers the check gives, and that knows all that it was asked: a real server on a real port.

```
def answer(request: HttpRequest) -> HttpAnswer:
    return HttpAnswer(503, headers={"Retry-After": "3600"})

payment = await testbed.upstream(answer)
client = await process.new("Client", payment.url)
...
assert len(payment.requests) == 4
```
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from faultline.components.proxy import FaultProxy
from faultline.testbed.errors import BudgetMissed, TestbedError
from faultline.testbed.history import History
from faultline.testbed.service import Service

_LONGEST_HEAD = 64 * 1024  # bytes


@dataclass(slots=True, eq=False)
class HttpRequest:
    """What came: header names in small letters, repeated ones all there; `at` seconds since the check began.

    `abandoned` is set when the client hangs up before it has its whole answer.
    """

    at: float
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for known, value in self.headers if known == name.lower()), None)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What goes back; of `body` only the first `cut` bytes, if given: then the connection ends, and the length lied.

    After each `drip` bytes it waits `pause` seconds.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    cut: int | None = None
    drip: int | None = None
    pause: float = 0.0


class _Reader(asyncio.StreamReader):
    """Also says when the client has hung up, although nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=_LONGEST_HEAD)
        self.hung_up = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.hung_up.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.hung_up.set()


Answering = Callable[[HttpRequest], Any]


class Upstream:
    """The service; `Testbed.upstream` starts one. `answer` may be changed at any time, and may be async and slow."""

    def __init__(self, name: str, answer: Answering, history: History, patience: float) -> None:
        self.name = name
        self.answer = answer
        self.requests: list[HttpRequest] = []
        self.host = "127.0.0.1"
        self.port = 0
        self.broken: Exception | None = None
        self._history = history
        self._patience = patience
        self._news = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    def hold(self) -> None:
        """From now on requests arrive, are counted, and wait: nothing is answered."""
        self._open.clear()

    def release(self) -> None:
        """Answer those that wait, and all that come."""
        self._open.set()

    async def asked(self, count: int = 1, *, within: float = 5.0) -> HttpRequest:
        """The `count`-th request, once it is there; `BudgetMissed` after `within` seconds."""
        began = time.monotonic()
        while len(self.requests) < count:
            self._news.clear()
            try:
                left = began + within * self._patience - time.monotonic()
                await asyncio.wait_for(self._news.wait(), max(0.0, left))
            except TimeoutError:
                took = time.monotonic() - began
                seen = f"{self.name} was asked {len(self.requests)} times within {took:.1f} s; expected were {count}"
                raise BudgetMissed(seen, promise=f"{self.name} was asked {count} times", took=took) from None
        return self.requests[count - 1]

    def prove(self) -> None:
        """Raise what the check's own function did wrong, if it did."""
        if isinstance(self.broken, AssertionError):
            raise self.broken
        if self.broken is not None:
            raise TestbedError(f"the check's function for {self.name} broke: {self.broken!r}") from self.broken

    async def forgotten(self, ports: Sequence[int]) -> None:
        """Nothing to wait for: it hears of a hang-up by itself."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Upstream"]:
        """Serve during the block; at its end all connections are closed."""
        connections = set[asyncio.Task[None]]()

        def protocol() -> asyncio.StreamReaderProtocol:
            reader = _Reader()

            def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.create_task(self._converse(reader, writer), name=f"a connection to {self.name}")
                connections.add(task)
                task.add_done_callback(connections.discard)

            return asyncio.StreamReaderProtocol(reader, accept)

        server = await asyncio.get_running_loop().create_server(protocol, self.host, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _converse(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.close()

    async def _exchange(self, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection goes on."""
        try:
            request = await _read(reader, self._history.now())
        except (ValueError, asyncio.LimitOverrunError):
            return await _write(HttpAnswer(400, headers={"Connection": "close"}, cut=0), writer, with_body=True)
        self.requests.append(request)
        self._history.note(self.name, f"{request.method} {request.target}")
        self._news.set()
        answering = asyncio.create_task(self._answer(request, writer))
        hanging_up = asyncio.create_task(reader.hung_up.wait())
        try:
            await asyncio.wait([answering, hanging_up], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                request.abandoned.set()
                return False
            return answering.result() and not hanging_up.done()
        finally:
            answering.cancel()
            hanging_up.cancel()
            await asyncio.gather(answering, hanging_up, return_exceptions=True)

    async def _answer(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        await self._open.wait()
        try:
            answer = self.answer(request)
            answer = await answer if inspect.isawaitable(answer) else answer
        except Exception as error:  # the check's: `prove` tells it
            self.broken = self.broken or error
            answer = HttpAnswer(500, b"the check's function broke")
        return await _write(answer, writer, with_body=request.method != "HEAD")


@dataclass(frozen=True, slots=True)
class ProxiedUpstream:
    """The way to it that leads through a fault proxy of its own."""

    proxy: FaultProxy
    server: Upstream | Service

    @property
    def requests(self) -> int:
        """Requests that went through until now."""
        return self.proxy.counts.requests

    @property
    def url(self) -> str:
        """The proxy's address, as the service's own."""
        return f"http://{self.proxy.host}:{self.proxy.port}"


async def _read(reader: asyncio.StreamReader, at: float) -> HttpRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    request = HttpRequest(at, method, target, headers, b"")
    if "chunked" in (request.header("transfer-encoding") or ""):
        request.body = await _read_chunks(reader)
    else:
        request.body = await reader.readexactly(int(request.header("content-length") or 0))
    return request


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while (await reader.readline()).strip():
        pass
    return body


async def _write(answer: HttpAnswer, writer: asyncio.StreamWriter, *, with_body: bool) -> bool:
    """Send it; whether the connection may go on."""
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{lines}\r\n".encode("latin-1"))
    body = answer.body[: answer.cut] if with_body else b""
    step = answer.drip or max(1, len(body))
    for start in range(0, len(body), step):
        writer.write(body[start : start + step])
        await writer.drain()
        await asyncio.sleep(answer.pause)
    await writer.drain()
    return answer.cut is None
