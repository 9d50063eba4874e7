"""What the shop could not handle: shown, or, once the reason is gone, driven again.

python -m faultline.shop.parked                     one JSON object a message
python -m faultline.shop.parked --redrive QUEUE     how many are on their way again
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import TYPE_CHECKING

import msgspec
from aio_pika.exceptions import ChannelNotFoundEntity

from faultline.patterns import Parking
from faultline.shop.errors import BadSettings, ShopError
from faultline.shop.topology import queues

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from faultline.patterns import ParkedMessage


class Found(msgspec.Struct, frozen=True):
    """One message, and whose it is."""

    queue: str
    id: str
    type: str
    subject: str
    time: str
    reason: str


async def look(amqp: str) -> list[Found]:
    """What is parked of all queues of the map."""
    return [
        Found(queue, one.id, one.type, one.subject, one.time, one.reason)
        for queue in queues()
        for one in await _parked(amqp, queue)
    ]


async def _parked(amqp: str, queue: str) -> list[ParkedMessage]:
    try:
        return await Parking(amqp, queue=queue).look()
    except ChannelNotFoundEntity:  # its service has never run
        return []


async def redrive(amqp: str, queue: str) -> int:
    """How many are on their way again. Raises `BadSettings` for a queue that nobody has."""
    if queue not in queues():
        raise BadSettings(f"nobody hears in {queue!r}; there is {', '.join(queues())}")
    try:
        return await Parking(amqp, queue=queue).redrive()
    except ChannelNotFoundEntity:
        return 0


def address(environment: Mapping[str, str]) -> str:
    """Of the broker. Raises `BadSettings` if it is not said."""
    if not (amqp := environment.get("SHOP_RABBITMQ_URL")):
        raise BadSettings("SHOP_RABBITMQ_URL is needed; `./lab shop parked` sets it, for the shop that runs")
    return amqp


def main(arguments: Sequence[str]) -> int:
    """Show, or drive again; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m faultline.shop.parked")
    parser.add_argument("--redrive", metavar="QUEUE")
    queue: str | None = parser.parse_args(arguments).redrive
    try:
        if queue is not None:
            print(f"{asyncio.run(redrive(address(os.environ), queue))} messages are on their way again.")
        else:
            for one in asyncio.run(look(address(os.environ))):
                print(msgspec.json.encode(one).decode())
    except ShopError as error:
        print(f"parked: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
