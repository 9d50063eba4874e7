"""A program of its own, run inside a network namespace: makes sockets there for whoever started it, until that ends.

A socket belongs for good to the network that it was made in, whoever holds it. Run by its path, with nothing but the
standard library: `python foreign_sockets.py NUMBER`, where NUMBER is the descriptor that it was given to talk by.
"""

import fcntl
import socket
import struct
import sys

_SET_FLAGS = 0x8914  # SIOCSIFFLAGS
_UP_AND_RUNNING = 0x1 | 0x40


def serve(control: socket.socket) -> None:
    """Bring loopback up, say so, then answer each byte with a fresh TCP socket."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))
    control.send(b"ready")
    while control.recv(1):
        with socket.socket() as made:
            socket.send_fds(control, [b"."], [made.fileno()])


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
