"""The end of a connection to a broker that may be dead or silent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection

FAREWELL = 1.0  # seconds for a broker to say goodbye


async def hang_up(broker: AbstractConnection) -> None:
    """Close it, and wait no longer than 1 s for the broker's consent; raises nothing but a cancellation."""
    with suppress(Exception):  # it is over, whatever a dead broker says to it
        async with asyncio.timeout(FAREWELL):
            await broker.close()
