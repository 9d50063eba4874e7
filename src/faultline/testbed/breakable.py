"""What a check does to a server of its own; each deed is noted, so that it stands in the timeline."""

from faultline.components import Instance
from faultline.testbed.history import History


class Breakable:
    """A server that may be killed, restarted, paused and resumed; `instance` and `history` are the heir's fields."""

    __slots__ = ()

    instance: Instance
    history: History

    @property
    def name(self) -> str:
        """As it appears in timelines."""
        return self.instance.name

    async def kill(self) -> None:
        """End all its processes at once (kill -9)."""
        self.history.note(self.name, "killed (SIGKILL)")
        await self.instance.kill()
        await self._hang_up()

    async def restart(self) -> None:
        """Start it again on the same port, with the data that it had put on disk."""
        await self._hang_up()
        await self.instance.restart()
        await self._begun()
        self.history.note(self.name, "started again")

    async def pause(self) -> None:
        """Make it silent: connections stay, nothing is answered (SIGSTOP)."""
        await self.instance.pause()
        self.history.note(self.name, "paused (SIGSTOP)")

    async def resume(self) -> None:
        """Let it answer again (SIGCONT)."""
        self.history.note(self.name, "resumed (SIGCONT)")
        await self.instance.resume()

    async def _begun(self) -> None:
        """Make sure of what it was started with, once it serves."""

    async def _hang_up(self) -> None:
        """Close the grader's own connections, which the server's end has made useless."""
