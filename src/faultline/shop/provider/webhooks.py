"""Tells payment what has become of each move, until it acknowledges that: maybe late, twice, and out of order."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

import aiohttp
import msgspec

from faultline.shop.provider.domain import written

if TYPE_CHECKING:
    from faultline.shop.provider.store import Moves, Webhook
    from faultline.shop.signatures import Signatures

PATH = "/v1/webhooks/provider"
LOOK_EVERY = 0.1  # seconds
AT_ONCE = 10
PATIENCE = 2.0  # seconds for an acknowledgement
LEASE = 10.0  # seconds
PAUSES = (0.2, 10.0)  # seconds before the second attempt, and at most

log = logging.getLogger(__name__)


class Webhooks:
    """What this process sends."""

    def __init__(self, moves: Moves, session: aiohttp.ClientSession, address: str, signatures: Signatures) -> None:
        self._moves = moves
        self._session = session
        self._url = f"http://{address}{PATH}"
        self._signatures = signatures

    async def run(self) -> NoReturn:
        """Until this is cancelled."""
        while True:
            try:
                due = await self._moves.webhooks(AT_ONCE, lease=LEASE)
                await asyncio.gather(*(self._send(webhook) for webhook in due))
            except Exception as error:  # a loop that others rely on: it tells, and goes on
                log.warning("no webhooks are sent", extra={"reason": repr(error)})
            await asyncio.sleep(LOOK_EVERY)

    async def _send(self, webhook: Webhook) -> None:
        body = msgspec.json.encode(written(webhook.move))
        headers = {"Content-Type": "application/json", **self._signatures.headers("POST", PATH, body)}
        try:
            async with asyncio.timeout(PATIENCE), self._session.post(self._url, data=body, headers=headers) as answer:
                seen = f"answered {answer.status}"
                is_acknowledged = answer.status in {200, 204}
        except (aiohttp.ClientError, OSError) as error:
            seen, is_acknowledged = repr(error), False
        if is_acknowledged:
            await self._moves.acknowledged(webhook)
            return
        first, longest = PAUSES
        after = min(first * 2.0 ** min(webhook.attempts, 10), longest)
        log.info("not acknowledged", extra={"key": webhook.move.key, "reason": seen, "pause": after})
        await self._moves.put_off(webhook, after)
