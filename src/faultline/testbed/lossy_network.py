"""A network that loses packets: real TCP segments, dropped by the kernel, and sent again by the kernel.

```
learner ──▶ fault proxy ──┐                    ┌──▶ server
                          │  another network   │
                          └─▶ 127.0.0.2 ──✗──▶ 127.0.0.1 (a second proxy)
```

The middle stretch is in a network namespace of its own, whose nftables drop every n-th segment that ends a message
(PSH; retransmissions count, too), beginning with the next one. The handshake of a connection is spared: losing that
costs whole seconds. Which bytes a lost segment held is not to be known; what holds is what TCP promises: they arrive
late (0.2 s and more), whole and in order. It needs no root, only user namespaces; with its last socket it is gone.
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from faultline.components.faults import Direction
from faultline.components.processes import tied
from faultline.components.providers import Program
from faultline.components.tools import libraries
from faultline.testbed import foreign_sockets
from faultline.testbed.errors import TestbedError
from faultline.testbed.history import History

_WITHIN = 10.0  # seconds
_CALLERS = "127.0.0.2"  # the address that connections come from; packets from it go to a server
_PREPARE = (
    "add table ip faultline",
    "add counter ip faultline lost",
    "add chain ip faultline input { type filter hook input priority 0; }",
)
_CLEAR = "flush chain ip faultline input"
_DROP = "add rule ip faultline input {} tcp flags & (syn | psh) == psh numgen inc mod {} == 0 counter name lost drop"
_NAMESPACES = (  # for unshare, and for nsenter; the second is root's, where the first is not
    (("--user", "--map-root-user", "--net"), ("--user", "--preserve-credentials", "--net")),
    (("--net",), ("--net",)),
)


class LossyNetwork:
    """Loses nothing until `lose`; for the ways of `testbed.proxy(server, over=network)`, several if need be."""

    def __init__(
        self, control: socket.socket, nft: Sequence[str], environment: dict[str, str], history: History
    ) -> None:
        self._control = control
        self._nft = nft
        self._environment = environment
        self._history = history
        self._lost = 0

    @property
    def lost(self) -> int:
        """Segments that it has dropped until now."""
        if self._control.fileno() >= 0:
            told = subprocess.run(
                [*self._nft, "list", "counter", "ip", "faultline", "lost"],
                env=self._environment, capture_output=True, text=True, timeout=_WITHIN, check=False,
            )  # fmt: skip
            if found := re.search(r"packets (\d+)", told.stdout):
                self._lost = int(found[1])
        return self._lost

    async def lose(self, *, one_in: int, direction: Direction = Direction.TO_SERVER) -> None:
        """From now on every n-th segment is lost (`BOTH`: each way), the next one first; with 1 none gets through."""
        ends = ((Direction.TO_SERVER, "saddr"), (Direction.TO_CLIENT, "daddr"))
        struck = [f"ip {end} {_CALLERS}" for way, end in ends if direction.covers(way)]
        await self.rule(_CLEAR, *(_DROP.format(packets, one_in) for packets in struck))
        self._history.note("network", f"loses one packet in {one_in}, {direction.value}")

    async def heal(self) -> None:
        """Lose nothing any more; what was lost comes when the kernel sends it again."""
        await self.rule(_CLEAR)
        self._history.note("network", "loses nothing any more")

    async def rule(self, *script: str) -> None:
        """Have these commands of nft obeyed, all or none."""
        filtering = await asyncio.create_subprocess_exec(
            *self._nft, "; ".join(script),
            env=self._environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await filtering.communicate()
        if filtering.returncode:
            raise TestbedError(f"no packets can be dropped here; nft said: {said.decode().strip()}")

    def make(self) -> socket.socket:
        """A fresh TCP socket in this network."""
        try:
            self._control.send(b".")
            _, [descriptor], _, _ = socket.recv_fds(self._control, 1, 1)
        except (OSError, ValueError) as error:
            raise TestbedError(f"the lossy network makes no sockets any more: {error}") from error
        return socket.socket(fileno=descriptor)

    def caller(self) -> socket.socket:
        """One that calls a server."""
        made = self.make()
        made.bind((_CALLERS, 0))
        return made


@asynccontextmanager
async def lossy_network(nft: Program, history: History) -> AsyncIterator[LossyNetwork]:
    """Such a network during the block; `TestbedError` where the system allows none."""
    said = ""
    environment = {**os.environ, **libraries(nft)}
    for making, entering in _NAMESPACES:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = (sys.executable, "-I", "-S", str(foreign_sockets.__file__), str(theirs.fileno()))
        with ours:
            with theirs:
                keeper = await asyncio.create_subprocess_exec(
                    *tied(["unshare", *making, "--", *program], os.environ),
                    pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
            try:
                if await _is_ready(ours):
                    command = ("nsenter", f"--target={keeper.pid}", *entering, "--", str(nft.path))
                    network = LossyNetwork(ours, command, environment, history)
                    await network.rule(*_PREPARE)
                    try:
                        yield network
                    finally:
                        network.lost  # noqa: B018 -- while it can still be asked
                    return
            finally:
                with suppress(ProcessLookupError):
                    keeper.kill()
                said = (await keeper.communicate())[1].decode().strip()
    raise TestbedError(
        f"no lossy network: `unshare --user --net` does not work here ({said}); "
        "allow user namespaces (sysctl user.max_user_namespaces), or run where they are"
    )


async def _is_ready(control: socket.socket) -> bool:
    control.setblocking(False)
    with suppress(TimeoutError):
        word = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(control, 64), _WITHIN)
        control.settimeout(_WITHIN)
        return word == b"ready"
    return False
