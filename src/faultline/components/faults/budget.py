"""A valve that lets so many bytes through, then ends the connection."""

from typing import ClassVar

from faultline.components.faults.fault import Fate, Ruling, Valve


class Budget(Valve):
    """Passes `left` bytes; then, or at the first byte where it was 0, the connection meets its fate."""

    slows: ClassVar[bool] = False

    def __init__(self, left: int, fate: Fate) -> None:
        self._left = left
        self._fate = fate

    def rule(self, now: float) -> Ruling:
        """Up to the rest of the budget, or the end."""
        del now
        return Ruling(most=self._left) if self._left else Ruling(fate=self._fate)

    def passed(self, count: int, now: float) -> None:
        """Spend."""
        del now
        self._left -= count
