"""Waiting for what a server was told to do."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from faultline.testbed.errors import TestbedError

WITHIN = 10.0  # seconds, on a loaded machine


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return when `condition` holds; `TestbedError` after 10 s: `what` completes "waited in vain until …"."""
    deadline = time.monotonic() + WITHIN
    while not await condition():
        if time.monotonic() > deadline:
            raise TestbedError(f"waited {WITHIN:g} s in vain until {what}")
        await asyncio.sleep(0.002)
