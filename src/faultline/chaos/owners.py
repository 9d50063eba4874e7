"""Whose a connection is: which process has the socket that calls from one port of this machine to another."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))  # gRPC calls IPv4 addresses from sockets of IPv6
ESTABLISHED = "01"


def calls_of(pid: int) -> set[tuple[int, int]]:
    """From which ports to which a process is connected, now; none if it is gone."""
    inodes = _sockets(pid)
    return {call for call, inode in _connections() if inode in inodes}


def owner_of(call: tuple[int, int], pids: Iterable[int]) -> int | None:
    """Which of these processes calls from the first port to the second; None if none does.

    The first alone would not do: a system lends one port to callers of different servers at the same time.
    """
    wanted = next((inode for one, inode in _connections() if one == call), None)
    return next((pid for pid in pids if wanted in _sockets(pid)), None) if wanted else None


def _connections() -> list[tuple[tuple[int, int], str]]:
    """The local port of each connection and the one at its other end, and the socket's number."""
    rows = [line.split() for table in TABLES for line in table.read_text().splitlines()[1:]]
    return [((_port(row[1]), _port(row[2])), row[9]) for row in rows if row[3] == ESTABLISHED]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    with suppress(OSError):  # it has ended
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                name = os.readlink(entry.path)  # noqa: PTH115 -- a link to nothing: socket:[123]
                if name.startswith("socket:["):
                    found.add(name[8:-1])
    return found
