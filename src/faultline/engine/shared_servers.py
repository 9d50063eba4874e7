"""Servers that take seconds to start: one for all runs of a warm runner, started when the first run needs it.

`python -m faultline.engine.shared_servers FD FOLDER` keeps them: for every component named in a line on the socket FD
it answers with a line, where that one serves or why not. It ends them when the socket is closed, so also when the
asker is killed, and the kernel ends them when it is killed itself. A server that has died meanwhile is started again.
"""

import asyncio
import json
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faultline.components import Clone, ComponentError, Instance, Supervisor
from faultline.engine.errors import RunnerDied
from faultline.engine.run_folders import run_folder

SHARED = ("rabbitmq",)


class SharedServers:
    """The asker's end; several threads may ask. Nothing is started before it is asked for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._one_at_a_time = threading.Lock()
        self._control: socket.socket | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def broker(self, cancelled: threading.Event) -> tuple[str, int, int] | None:
        """Host, port and management port of RabbitMQ; None when cancelled. Raises `RunnerDied`."""
        answer = self._server("rabbitmq", cancelled)
        return None if answer is None else (answer["host"], answer["port"], answer["ports"]["management"])

    def opensearch(self, cancelled: threading.Event) -> str | None:
        """The address of OpenSearch; None when cancelled. Raises `RunnerDied`."""
        answer = self._server("opensearch", cancelled)
        return None if answer is None else str(answer["url"])

    def _server(self, component: str, cancelled: threading.Event) -> dict[str, Any] | None:
        with self._one_at_a_time:
            try:
                line = self._asked(self._control or self._begin(), component, cancelled)
            except OSError as error:
                self.close()
                raise RunnerDied(f"the keeper of the shared servers is gone ({error}); try again") from error
        if line is None:
            return None
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RunnerDied(f"{component} for the checks did not start: {answer['error']}")
        return answer

    def _asked(self, control: socket.socket, component: str, cancelled: threading.Event) -> bytes | None:
        control.sendall(f"{component}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            if cancelled.is_set():
                self.close()  # its answer would be taken for that to the next question
                return None
            if select.select([control], [], [], 0.05)[0]:
                data = control.recv(65536)
                if not data:
                    raise ConnectionError("it hung up")
                line += data
        return line

    def _begin(self) -> socket.socket:
        folder = run_folder(Clone.here().root, "shared")
        self._control, theirs = socket.socketpair()
        with theirs:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "faultline.engine.shared_servers", str(theirs.fileno()), str(folder)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the asker
                env=self._environment,
            )
        return self._control

    def close(self) -> None:
        """End them; returns when they are gone."""
        if self._control is not None and self._keeper is not None:
            self._control.close()
            self._keeper.wait()
        self._control = self._keeper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def _keep(control: socket.socket, folder: Path) -> None:
    reader, writer = await asyncio.open_connection(sock=control)
    questions: asyncio.Queue[str] = asyncio.Queue()

    async def listen() -> None:
        while line := await reader.readline():
            questions.put_nowait(line.decode().strip())
        raise ConnectionError("nobody asks any more")  # also in the middle of a start

    async def answer() -> None:
        async with Supervisor(folder / "servers", Clone.here().without_given_servers()) as supervisor:
            try:
                while True:
                    writer.write(json.dumps(await _told(supervisor, await questions.get())).encode() + b"\n")
            finally:
                for instance in supervisor.instances.values():
                    instance.kill_now()  # nothing that they hold is needed any more

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            group.create_task(answer())
    except* ConnectionError:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _told(supervisor: Supervisor, component: str) -> dict[str, object]:
    try:
        instance = supervisor.instances.get(component) or await _started(supervisor, component)
        if not instance.alive:
            await instance.start()
    except ComponentError as error:
        return {"error": str(error)}
    return {"host": instance.host, "port": instance.port, "ports": dict(instance.ports), "url": instance.url}


async def _started(supervisor: Supervisor, component: str) -> Instance:
    print(f"starting {component} for the checks, once for all runs of this command...", file=sys.stderr, flush=True)
    return await supervisor.start(component, name=component)


def _main(arguments: Sequence[str]) -> None:
    descriptor, folder = arguments
    asyncio.run(_keep(socket.socket(fileno=int(descriptor)), Path(folder)))


if __name__ == "__main__":
    _main(sys.argv[1:])
