"""What a proxy knows of the requests that passed: counts, a log, and who wants which of them held."""

from collections import deque

from faultline.components.proxy.command import Command
from faultline.components.proxy.counts import Tally
from faultline.components.proxy.hold import Hold
from faultline.components.proxy.watcher import Watched, Watcher

REMEMBERED = 10_000
"""Commands kept in the log; older ones are forgotten."""


class Ledger:
    """Kept by the conversations of all connections together."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.commands: deque[Command] = deque(maxlen=REMEMBERED)
        self.request_holds: list[Hold] = []
        self.reply_holds: list[Hold] = []
        self.watcher: Watcher | None = None

    def request_hold(self, command: Command) -> Hold | None:
        """The hold that claims this request, the oldest first."""
        claimed = next((hold for hold in self.request_holds if hold.claims(command)), None)
        return claimed or (Watched(self.watcher.arrived) if self.watcher else None)

    def reply_hold(self, command: Command) -> Hold | None:
        """The hold that claims the reply to this request, the oldest first."""
        claimed = next((hold for hold in self.reply_holds if hold.claims(command)), None)
        return claimed or (Watched(self.watcher.executed) if self.watcher else None)

    def answered(self, command: Command) -> None:
        """The reply to this request has been passed on."""
        if self.watcher:
            self.watcher.answered(command)

    def last_seen(self) -> str:
        """What came lately, in words."""
        last = [command for command in self.commands if not command.handshake][-5:]
        return f"{self.tally.requests} requests, the last: {'; '.join(map(str, last)) or 'none'}"

    def close(self) -> None:
        """Tell whoever waits for a hold that nothing more will come."""
        for hold in (*self.request_holds, *self.reply_holds):
            hold.close()
