"""Somebody who is told of every request on its way, and may stop it there for good.

client ──arrived──▶ proxy ──▶ server ──executed──▶ proxy ──▶ client ──answered
"""

from collections.abc import Callable
from typing import Protocol

from faultline.components.proxy.command import Command
from faultline.components.proxy.hold import Hold


class Watcher(Protocol):
    """Asked in the proxy's event loop; what it stops never goes on, and `FaultProxy.sever` drops it."""

    def arrived(self, command: Command) -> bool:
        """The request is here and the server has not seen it: whether it stops here."""
        ...

    def executed(self, command: Command) -> bool:
        """The server has acted and its reply is here: whether that stops here."""
        ...

    def answered(self, command: Command) -> None:
        """The reply has been passed on."""
        ...


class Watched(Hold):
    """Stops a request or a reply if the watcher says so when it arrives."""

    def __init__(self, stops: Callable[[Command], bool]) -> None:
        super().__init__(lambda _: True, 1, skip=0, seen=lambda: "")
        self._stops = stops

    def arrive(self, command: Command) -> None:
        """Ask."""
        super().arrive(command)
        if not self._stops(command):
            self.release()
