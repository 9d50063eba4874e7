"""Requests and replies that wait in the proxy until they are let go: scheduling instead of sleeping.

client ──SET a──▶ proxy ┆ held ┆            server     hold.reached() returns
                        ┆      ┆──SET a──▶             after hold.release()
"""

import asyncio
from collections.abc import Callable

from faultline.components.proxy.command import Command, Match
from faultline.components.proxy_errors import NotReached


class Hold:
    """Stops the next `n` requests (or their replies) that match, each with all that follows it on its stream.

    Other connections flow. What is held stays held, also after the client has gone away, until `release` or the
    proxy's end, which drops it undelivered.
    """

    def __init__(self, match: Match, n: int, *, skip: int, seen: Callable[[], str]) -> None:
        if n < 1 or skip < 0:
            raise ValueError(f"hold {n} after {skip}: at least 1 after at least 0")
        self._match = match
        self._n = n
        self._skip = skip
        self._seen = seen
        self._claimed = 0
        self._open = False
        self._all_there = asyncio.Event()
        self._error: Exception | None = None
        self._waiting: list[Callable[[], None]] = []
        self.commands: list[Command] = []

    @property
    def arrived(self) -> int:
        """How many have been stopped so far."""
        return len(self.commands)

    @property
    def is_open(self) -> bool:
        """Whether what was held may go."""
        return self._open

    async def reached(self, timeout: float) -> None:
        """Wait until all `n` are held; raise `NotReached` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._all_there.wait()
        except TimeoutError:
            raise NotReached(f"{self._shortfall()} within {timeout} s; seen: {self._seen()}") from None
        if self._error:
            raise self._error
        if self.arrived < self._n:
            raise NotReached(f"{self._shortfall()} before the proxy was closed; seen: {self._seen()}")

    def release(self) -> None:
        """Let everything held go, in order, and hold nothing more."""
        self._open = True
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def claims(self, command: Command) -> bool:
        """Whether this request is one to hold (the proxy's question, asked once a request)."""
        if self._open or self._claimed == self._n or not self._matches(command):
            return False
        if self._skip:
            self._skip -= 1
            return False
        self._claimed += 1
        return True

    def arrive(self, command: Command) -> None:
        """Take note that it is held now (the proxy's)."""
        self.commands.append(command)
        if self.arrived == self._n:
            self._all_there.set()

    def when_open(self, wake: Callable[[], None]) -> None:
        """Call this on release (the proxy's)."""
        self._waiting.append(wake)

    def close(self) -> None:
        """Drop what is held and tell whoever waits (the proxy's, at its end)."""
        self._waiting.clear()
        self._all_there.set()

    def _matches(self, command: Command) -> bool:
        try:
            return self._match(command.args)
        except Exception as error:  # the caller's code, in our event loop: `reached` tells the caller
            self._error = error
            self._all_there.set()
            return False

    def _shortfall(self) -> str:
        return f"{self.arrived} of {self._n} matching requests were held"


class Barrier(Hold):
    """Holds `n` matching requests until all of them are there, then lets them all go."""

    def arrive(self, command: Command) -> None:
        """The last one opens the barrier."""
        super().arrive(command)
        if self.arrived == self._n:
            self.release()

    async def met(self, timeout: float) -> None:
        """Wait until all `n` have come and been let go; raise `NotReached` after `timeout` seconds."""
        await self.reached(timeout)
