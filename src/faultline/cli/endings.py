"""How a verb is asked to end: Ctrl-C, SIGTERM, the end of the terminal; each comes as a KeyboardInterrupt."""

import signal
from collections.abc import Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """Somebody asks this command to end otherwise than by Ctrl-C, and it ends the same way."""


def hear_endings() -> None:
    """SIGTERM and the end of the terminal come as an exception, so that what was started is ended."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # otherwise somebody wants it ignored: nohup
            signal.signal(number, _asked)


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, but each ending cancels `main`, also the second one: what `main` then awaits is cut short.

    `asyncio.run` itself raises at the second Ctrl-C wherever Python is just then. Where the loop has taken a callback
    from its queue and not called it yet, whoever waits for that waits for ever: one time in 400 when the two come
    within 0.3 ms (the loss is described in CPython's issue 83803; the first Ctrl-C was mended there).

    Raises what `main` raises, and KeyboardInterrupt (`Ended` for the other two) when an ending has cancelled it.
    """
    import asyncio  # late: every verb would wait for it

    asked = list[signal.Signals]()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        def cancel() -> None:
            for task in [wanted] if not wanted.done() else asyncio.all_tasks(loop):  # else what the loop's end awaits
                task.cancel()

        def ask(number: int, _frame: FrameType | None) -> None:
            asked.append(signal.Signals(number))
            with suppress(RuntimeError):  # the loop is closed: nothing is left to cancel
                loop.call_soon_threadsafe(cancel)

        wanted = loop.create_task(main)
        as_it_is = (signal.SIG_IGN, signal.SIG_DFL, None)  # ignored, left to the kernel, or heard by C
        before = {number: now for number in ENDINGS if (now := signal.getsignal(number)) not in as_it_is}
        for number in before:
            signal.signal(number, ask)
        try:
            return loop.run_until_complete(wanted)
        except asyncio.CancelledError:
            if not asked:
                raise
            raise (KeyboardInterrupt() if asked[0] == signal.SIGINT else Ended(asked[0].name)) from None
        finally:
            runner.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def _asked(number: int, _frame: FrameType | None) -> NoReturn:
    raise Ended(signal.Signals(number).name)
