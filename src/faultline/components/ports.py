"""Ports on 127.0.0.1: one for us alone, and who holds one that is not free."""

import secrets
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from faultline.components.errors import PortTaken

HOST = "127.0.0.1"
LOWEST = 10_240
LISTEN = "0A"
TIME_WAIT = "06"


@contextmanager
def reserved(port: int | None = None) -> Iterator[int]:
    """A port, any free one unless it is named, that no other supervisor of this machine uses meanwhile.

    Other programs do not know of the reservation: whoever starts a server must be ready to see it fail.
    Free ones lie below the range from which the kernel takes clients' ports, so that no client that knocks on a
    killed server is given that server's port, keeps the server from coming back, or connects to itself.
    """
    for candidate in [port] if port is not None else _candidates():
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0faultline-port-{candidate}")  # the kernel frees the name when we die
            except OSError:
                continue
            if port is not None or is_free(candidate):
                yield candidate
                return
    raise PortTaken("no free port" if port is None else f"port {port} is used by another supervisor of this machine")


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
            trial.listen(1)
        except OSError:
            return False
        return True


def holder(port: int) -> str:
    """Who listens there, in words; 'another process' where the system does not tell."""
    sockets = _listening(port)
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in sockets:
                process = link.parents[1]
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({words[:80]})"
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return "another process"


def connected(port: int, peers: Collection[int]) -> bool:
    """Whether who listens there still has a connection from one of these ports, also one that is closed over there."""
    ours = f"0100007F:{port:04X}"
    callers = {f"0100007F:{peer:04X}" for peer in peers}
    cells = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(cell[1] == ours and cell[2] in callers and cell[3] != TIME_WAIT for cell in cells)


def _candidates() -> Iterator[int]:
    span = _first_of_clients() - LOWEST
    for _ in range(1000 if span > 0 else 0):
        yield LOWEST + secrets.randbelow(span)
    for _ in range(1000):  # a machine where clients take them all
        with socket.socket() as anyone:
            anyone.bind((HOST, 0))
            port = int(anyone.getsockname()[1])
        yield port


def _first_of_clients() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768


def _listening(port: int) -> set[str]:
    sockets = set[str]()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:  # IPv6 is switched off
            continue
        cells = (row.split() for row in rows)
        sockets |= {f"socket:[{cell[9]}]" for cell in cells if cell[1].endswith(f":{port:04X}") and cell[3] == LISTEN}
    return sockets
