"""What the tests of the lock look at on a server, and a clock that they put forward."""

import time

from redis.asyncio import Redis

from faultline.components.proxy import named

NAME = "flash-sale"
SCRIPT = named("EVALSHA", "EVAL")


class Clock:
    """The machine's, until it is put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


async def blocked(redis: Redis, waiters: int = 1) -> bool:
    return int((await redis.info("clients"))["blocked_clients"]) == waiters


async def keys(redis: Redis) -> set[str]:
    return {bytes(key).decode().rpartition(":")[2] for key in await redis.keys("*")}  # pyright: ignore[reportArgumentType] -- not decoded
