"""Which way bytes go."""

from enum import Enum


class Direction(Enum):
    """The way through the proxy that a fault strikes."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"
    BOTH = "both"

    def covers(self, way: "Direction") -> bool:
        """Whether a fault in this direction strikes bytes that go that way."""
        return self is Direction.BOTH or self is way
