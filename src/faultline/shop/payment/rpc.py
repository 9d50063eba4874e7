"""What payment asks of the provider, each move under its key: so asking again is safe, and asking after it is possible.

Each call answers, or raises: `NotTried` or `ConnectionRefusedError` when it has not happened, another `OSError` (also
`TimeoutError`) when nobody here knows. What the provider has declined is an answer. Nothing is tried again here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from faultline.patterns import Bulkhead, CircuitBreaker, deadline, headers
from faultline.shop.contracts import Money
from faultline.shop.logs import request_id
from faultline.shop.payment.domain import Move, Moved

if TYPE_CHECKING:
    from faultline.patterns import CircuitState
    from faultline.shop.payment.store import Job
    from faultline.shop.signatures import Signatures

PLACES = 8  # calls at once
PATIENCE = 1.0  # seconds for a call
OPEN_FOR = 1.0  # seconds
PATHS = {Move.CAPTURE: "/v1/charges", Move.REFUND: "/v1/refunds"}

log = logging.getLogger(__name__)


class _Outcome(msgspec.Struct):
    key: str
    status: Literal["succeeded", "declined"]
    code: str
    amount: Money
    reference: str


class Entry(msgspec.Struct, frozen=True):
    """A line of the provider's statement; below zero: what was given back."""

    position: int
    key: str
    reference: str
    amount: Money


class _Page(msgspec.Struct):
    lines: list[Entry]


class Provider:
    """Who moves the money."""

    def __init__(self, session: aiohttp.ClientSession, address: str, signatures: Signatures) -> None:
        self._session = session
        self._base = f"http://{address}"
        self._signatures = signatures
        self._room = Bulkhead(PLACES, queue=PLACES)
        self._breaker = CircuitBreaker(minimum=5, window=10, open_for=OPEN_FOR, slow_after=PATIENCE)
        self._breaker.on_change(_changed)

    @property
    def is_away(self) -> bool:
        """It has failed too often: one call at a time finds out whether it is back."""
        return self._breaker.state != "closed"

    async def find(self, move: Move, key: str) -> Moved | None:
        """What has become of the move; None if the provider has not heard of it, yet."""
        status, body = await self._ask("GET", f"{PATHS[move]}/{quote(key, safe='')}")
        return None if status == 404 else _moved(status, body)

    async def carry_out(self, job: Job, key: str) -> Moved:
        """Have the money moved, once, however often it is asked for."""
        amount = msgspec.to_builtins(job.payment.amount)
        asked = {"amount": amount} if job.move is Move.CAPTURE else {"charge": f"{job.payment.order}:{Move.CAPTURE}"}
        status, body = await self._ask("POST", PATHS[job.move], msgspec.json.encode(asked), key)
        return _moved(status, body)

    async def statement(self, after: int) -> list[Entry]:
        """Some of its lines, in order; empty where there are no more."""
        status, body = await self._ask("GET", f"/v1/statement?after={after}")
        if status != 200:
            raise ConnectionError(f"the provider answers {status}: {body[:200]!r}")
        return msgspec.json.decode(body, type=_Page).lines

    async def _ask(self, method: str, target: str, body: bytes = b"", key: str = "") -> tuple[int, bytes]:
        return await self._breaker.call(self._room.call, self._send, method, target, body, key)

    async def _send(self, method: str, target: str, body: bytes, key: str) -> tuple[int, bytes]:
        async with deadline(PATIENCE):
            told = {
                "Content-Type": "application/json",
                "X-Request-Id": request_id.get(),
                **self._signatures.headers(method, target, body, key=key),
                **headers(),
            }
            url = URL(self._base + target, encoded=True)
            try:
                async with self._session.request(method, url, data=body or None, headers=told) as answer:
                    status, read = answer.status, await answer.read()
            except aiohttp.ClientConnectorError as error:
                raise ConnectionRefusedError(f"{url}: {error!r}") from error
            except aiohttp.ClientError as error:
                raise ConnectionError(f"{url}: {error!r}") from error
        if status >= 500:
            raise ConnectionError(f"{url} answers {status}: {read[:200]!r}")
        return status, read


def _moved(status: int, body: bytes) -> Moved:
    if status != 200:  # it has refused to understand us: for a human, and until then we do not know
        raise ConnectionError(f"the provider answers {status}: {body[:200]!r}")
    return moved_by(body)[1]


def moved_by(body: bytes) -> tuple[str, Moved]:
    """The key of a move, and what has become of it, as the provider writes it. Raises `msgspec.MsgspecError`."""
    found = msgspec.json.decode(body, type=_Outcome)
    code = (found.code or "declined") if found.status == "declined" else ""
    return found.key, Moved(amount=found.amount, reference=found.reference, code=code)


def _changed(before: CircuitState, now: CircuitState) -> None:
    log.warning("the provider's circuit", extra={"before": before, "now": now})
