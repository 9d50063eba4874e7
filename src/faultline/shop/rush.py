"""A rush of buyers for a flash sale: all at once, spread over the processes of inventory that are named.

python -m faultline.shop.rush SKU BUYERS HOST:PORT...         prints what they were told, as JSON

Each asks until it is told yes or no. Who gets no answer asks again, with the same order: nobody buys twice by that.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import grpc

from faultline.shop.contracts import inventory_pb2 as pb
from faultline.shop.contracts.inventory_pb2_grpc import InventoryStub

if TYPE_CHECKING:
    from collections.abc import Sequence

WITHIN = 60.0  # seconds for the whole rush
CALL = 5.0  # seconds for one answer
HELD = 600.0  # seconds for which what was bought is held
AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


async def rush(sku: str, buyers: int, addresses: Sequence[str]) -> dict[str, object]:
    """Let them buy; who was told yes, by whom, and how often somebody had to ask again.

    Raises `TimeoutError` if some know nothing after `WITHIN` seconds, and `grpc.aio.AioRpcError` for other refusals.
    """
    again = Counter[str]()
    channels = [grpc.aio.insecure_channel(address) for address in addresses]
    try:
        stubs = [InventoryStub(channel) for channel in channels]

        async def buy(number: int) -> str:
            order, at = f"rush-{number}", number % len(stubs)
            request = pb.BuyRequest(order_id=order, sku=sku, seconds=HELD)
            while True:
                try:
                    reply: pb.Reservation = await stubs[at].Buy(request, timeout=CALL)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in AGAIN:
                        raise
                    again[addresses[at]] += 1
                    at = (at + 1) % len(stubs)
                else:
                    return addresses[at] if reply.state == pb.STATE_RESERVED else ""

        async with asyncio.timeout(WITHIN):
            told = await asyncio.gather(*(buy(number) for number in range(buyers)))
    finally:
        for channel in channels:
            await channel.close()
    sold = Counter(address for address in told if address)
    orders = [f"rush-{number}" for number, address in enumerate(told) if address]
    return {"orders": orders, "sold_by": dict(sold), "asked_again": again.total()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(rush(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))))
