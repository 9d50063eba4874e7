"""A call of the learner's code that the check can cancel, as `asyncio` cancels: the code sees `CancelledError`."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from faultline.testbed.errors import BudgetMissed, Raised, Vacuous
from faultline.testbed.history import Operation

_ENDS_WITHIN = 5.0  # seconds; a cancelled call needs a few wakings


class Call:
    """One running call; awaiting it gives what the call gives. `LearnerProcess.call` begins one.

    ```
    waiting = process.call(room, "enter", timeout=10)
    ...                                  # until it certainly waits
    assert await waiting.cancel(), "a cancelled visitor went in all the same"
    ```
    """

    def __init__(
        self, operation: Operation, answer: Coroutine[Any, Any, Any], cancel: Callable[[], Awaitable[bool]]
    ) -> None:
        self.operation = operation
        self._cancel = cancel
        self._answer = asyncio.create_task(answer, name=operation.what)
        self._answer.add_done_callback(_heard)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer.__await__()

    @property
    def ended(self) -> bool:
        """Whether its answer is here."""
        return self._answer.done()

    async def cancel(self) -> bool:
        """Cancel it; returns once it has ended: True by its cancellation, False with a value or another exception.

        Raises `Vacuous` if it had ended before, and `BudgetMissed` if it goes on for 5 s.
        """
        if not await self._cancel():
            raise Vacuous(f"{self.operation.what} had ended before it could be cancelled")
        try:
            await asyncio.wait_for(asyncio.shield(self._answer), _ENDS_WITHIN)
        except Raised as error:
            return error.kind == "CancelledError"
        except TimeoutError:
            promise = f"the cancelled {self.operation.what} had ended"
            seen = f"{self.operation.what} was cancelled and still runs after {_ENDS_WITHIN:g} s"
            raise BudgetMissed(seen, promise=promise, took=_ENDS_WITHIN) from None
        return False


def _heard(answer: "asyncio.Task[Any]") -> None:
    """Nobody may ever await it; its end is in the history all the same."""
    if not answer.cancelled():
        answer.exception()
