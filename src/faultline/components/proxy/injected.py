"""A fault at work in a proxy."""

from faultline.components.faults import Direction, Fault


class Injected:
    """What `FaultProxy.add` returns: remove it with `FaultProxy.remove`, and ask it how often it struck."""

    def __init__(
        self, fault: Fault, direction: Direction, number: int, connections: frozenset[int] | None = None
    ) -> None:
        self.fault = fault
        self.direction = direction
        self.number = number
        self._connections = connections
        self.active = True
        self._hits = 0
        self._meter = fault.meter()
        self._before = self._meter() if self._meter else 0

    @property
    def hits(self) -> int:
        """How often it really struck: connections or chunks, as the fault's docstring says. 0: it was vacuous."""
        if self.active and self._meter:
            return self._meter() - self._before
        return self._hits

    def strikes(self, connection: int) -> bool:
        """Whether it is meant for the connection of this number (the proxy's)."""
        return self._connections is None or connection in self._connections

    def hit(self) -> None:
        """Count one (the proxy's)."""
        self._hits += 1

    def end(self) -> None:
        """Strike no more (the proxy's)."""
        self._hits = self.hits
        self.active = False

    def __repr__(self) -> str:
        state = "active" if self.active else "removed"
        return f"<{self.fault} {self.direction.value}, {self.hits} hits, {state}>"
