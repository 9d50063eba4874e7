"""The loop of work that others rely on: it tells what went wrong, goes on, and ends when it is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONGEST_PAUSE = 5.0  # seconds between two passes while they fail


async def run_loop(
    once: Callable[[], Awaitable[bool]], *, every: float, on_error: Callable[[Exception], None]
) -> NoReturn:
    """Call `once` until cancelled: at once again while it says that there is more to do, else `every` so many seconds.

    `on_error` is told what a pass has raised; the next one comes after twice the pause, at most 5 s (or `every`, where
    that is longer). A cancellation that `once` swallows, as a client of a server may, ends the loop all the same.
    """
    task = asyncio.current_task()
    assert task, "a coroutine runs in a task"
    before = task.cancelling()
    pause = every
    while True:
        try:
            more = await once()
            pause = every
        except Exception as error:  # a loop that others rely on: it tells, and goes on
            on_error(error)
            more, pause = False, min(2 * pause, max(LONGEST_PAUSE, every))
        if task.cancelling() != before:
            raise asyncio.CancelledError
        await asyncio.sleep(0 if more else pause)
