"""Whose a connection is, also where two processes call from the same port."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from faultline.chaos.owners import calls_of, owner_of
from faultline.components import ports

CALLER = """
import socket, sys
mine, theirs = map(int, sys.argv[1:])
with socket.socket() as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", mine))
    one.connect(("127.0.0.1", theirs))
    print("connected", flush=True)
    sys.stdin.read()
"""


def call(stack: ExitStack, mine: int, server: socket.socket) -> tuple[int, int]:
    """A process that calls from that port: which it is, and the port that it calls."""
    theirs = int(server.getsockname()[1])
    caller = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", CALLER, str(mine), str(theirs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    )
    assert caller.stdin
    assert caller.stdout
    stack.callback(caller.stdin.close)
    assert caller.stdout.readline() == b"connected\n"
    stack.enter_context(closing(server.accept()[0]))
    return caller.pid, theirs


@pytest.fixture
def servers() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server((ports.HOST, 0)) as one, socket.create_server((ports.HOST, 0)) as other:
        yield one, other


def test_two_that_call_different_servers_from_one_port_are_told_apart(
    servers: tuple[socket.socket, socket.socket],
) -> None:
    with ExitStack() as stack:
        mine = stack.enter_context(ports.reserved())
        (first, one), (second, other) = (call(stack, mine, each) for each in servers)
        pids = [first, second]
        assert (owner_of((mine, one), pids), owner_of((mine, other), pids)) == (first, second)
        assert (calls_of(first), calls_of(second)) == ({(mine, one)}, {(mine, other)})
        assert owner_of((mine, one), [second, os.getpid()]) is None
    assert calls_of(first) == set()
    assert owner_of((mine, one), pids) is None
