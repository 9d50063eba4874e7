"""In the learner's process: an ASGI app is served on a port of its own, by uvicorn."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


async def serve(app: App, address: tuple[str, int], tasks: asyncio.TaskGroup) -> None:
    """Return once it accepts connections; it does so until the process ends, or is told to (SIGTERM).

    Raises what the app raised where it was to start (ASGI's lifespan), or said there.
    """
    import uvicorn  # most processes serve nothing

    starting = _Start(app)
    config = uvicorn.Config(
        starting.app,
        http="h11",
        ws="none",
        interface="asgi3",
        log_level="warning",
        use_colors=False,
        proxy_headers=False,  # whom to believe is the app's to decide
    )
    server = uvicorn.Server(config)
    serving = tasks.create_task(_until_its_end(server, _bound(address)), name="serve")
    while not (server.started or serving.done()):  # noqa: ASYNC110 -- it has no event for that
        await asyncio.sleep(0.001)
    if not server.started:
        raise starting.failure or RuntimeError(f"the app cannot start: {starting.said or 'it did not say why'}")


class _Start:
    """The app, and how its start went."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.failure: BaseException | None = None
        self.said = ""

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        async def heard(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                self.said = str(message.get("message", ""))
            await send(message)

        try:
            await self._app(scope, receive, heard)
        except BaseException as error:  # an app that knows no lifespan may raise: whether it matters, uvicorn says
            self.failure = error
            raise


async def _until_its_end(server: "uvicorn.Server", sock: socket.socket) -> None:
    with suppress(SystemExit):  # its word for an app that did not start
        await server.serve(sockets=[sock])


def _bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    return sock
