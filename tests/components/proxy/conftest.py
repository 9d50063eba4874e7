"""Real servers, a proxy before each, and clients that go through it."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from faultline.components.proxy import FaultProxy

NOBODY = 65534
DEADLINE = 20.0
ONCE = Retry(NoBackoff(), 0)

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Until = Callable[[Callable[[], object]], Awaitable[None]]
Connect = Callable[[], Awaitable[tuple[End, End]]]


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """A Redis (or Valkey) of our own."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    assert program, "no valkey-server or redis-server on PATH"
    port = _free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", tempfile.gettempdir()]
    with _running(command, port):
        yield port


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[int]:
    """A PostgreSQL of our own, not run by root, which it refuses."""
    folder = Path(tempfile.mkdtemp(prefix="proxy-test-"))
    demoted: list[str] = []
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        demoted = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    data, port = str(folder / "data"), _free_port()
    initdb = ["initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8"]
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    probe = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    try:
        subprocess.run([*demoted, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
        with _running([*demoted, "postgres", "-D", data, *options], port):
            _until(lambda: subprocess.run(probe, check=False).returncode == 0)
            yield port
    finally:
        shutil.rmtree(folder)


@pytest.fixture
async def proxy(redis_port: int) -> AsyncIterator[FaultProxy]:
    """Before Redis, reading its commands."""
    async with FaultProxy("127.0.0.1", redis_port, protocol="redis", seed=1) as proxy:
        yield proxy


@pytest.fixture
async def direct(redis_port: int) -> AsyncIterator[Redis]:
    """The truth: a client that does not go through the proxy; the database is empty at first."""
    async with Redis(port=redis_port) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def redis(proxy: FaultProxy, direct: Redis) -> AsyncIterator[Redis]:
    """A client through the proxy."""
    async with Redis(port=proxy.port, protocol=2, retry=ONCE, single_connection_client=True) as client:
        yield client


@pytest.fixture
async def accepted() -> AsyncIterator[list[End]]:
    """The server's ends of all connections to the server that the test plays itself."""
    ends: list[End] = []
    yield ends
    for _, writer in ends:
        writer.transport.abort()


@pytest.fixture
async def plain(accepted: list[End]) -> AsyncIterator[FaultProxy]:
    """A proxy before the server that the test plays itself."""
    async with await asyncio.start_server(lambda *end: accepted.append(end), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with FaultProxy("127.0.0.1", port, seed=1) as proxy:
            yield proxy
        for _, writer in accepted:
            writer.transport.abort()


@pytest.fixture
async def connect(plain: FaultProxy, accepted: list[End], until: Until) -> AsyncIterator[Connect]:
    """Opens a connection through `plain` and gives the client's end and the server's."""
    clients: list[End] = []

    async def connect() -> tuple[End, End]:
        number = len(accepted)
        clients.append(await asyncio.open_connection(plain.host, plain.port))
        await until(lambda: len(accepted) > number)
        return clients[-1], accepted[number]

    yield connect
    for _, writer in clients:
        writer.transport.abort()


@pytest.fixture
def until() -> Until:
    """Waits for a condition, with a deadline."""

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 -- any condition: nothing here could set an event
                await asyncio.sleep(0.001)

    return until


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        _until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, f"{command} exited with {process.returncode}"
        yield
    finally:
        process.send_signal(signal.SIGINT)  # to PostgreSQL: without waiting for its clients
        process.wait(DEADLINE)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "a server did not get ready in time"
        time.sleep(0.01)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
