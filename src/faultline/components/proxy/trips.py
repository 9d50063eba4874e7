"""Round trips, as `Counts` defines them."""


class Trips:
    """Round trips of one kind on one connection."""

    def __init__(self) -> None:
        self._unanswered = 0
        self._under_way = False

    def ask(self) -> bool:
        """A request goes out; whether a round trip begins with it."""
        begins = not self._under_way
        self._under_way = True
        self._unanswered += 1
        return begins

    def answer(self, *, more_to_come: bool) -> None:
        """A reply is with the client; the round trip ends when nothing is owed and no request is half sent."""
        self._unanswered -= 1
        if not self._unanswered and not more_to_come:
            self._under_way = False
