"""Upstreams for what stands before them."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Upstream:
    """A real HTTP server of the test: says its name, fails as often as it is told, and counts."""

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    failures: int = 0
    """How many of the next requests it answers with 503."""
    paths: list[str] = field(default_factory=list[str])
    """What it was asked for."""


@pytest.fixture
def upstream() -> Iterator[Callable[[str], Upstream]]:
    """Starts one by name."""
    with ExitStack() as stack:
        yield lambda name: _started(name, stack)


def _started(name: str, stack: ExitStack) -> Upstream:
    upstream = Upstream(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the parent calls it so
            pass

        def do_GET(self) -> None:
            upstream.paths.append(self.path)
            failing = upstream.failures > 0
            upstream.failures -= failing
            body = json.dumps({"name": name}).encode()
            self.send_response(503 if failing else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    upstream.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    stack.callback(server.shutdown)
    return upstream
