"""OpenSearch as a program that answers: JSON over HTTP, by the client that all services have.

Its own client costs every process that has it 49 MB; what is needed of it here is one method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec

from faultline.patterns import deadline

if TYPE_CHECKING:
    from faultline.shop.search.queries import Body

T = TypeVar("T")

WITHIN = 2.0  # seconds for an answer
SLOWLY = 30.0  # seconds for what makes, removes or refreshes an index, or writes much
WRONG = frozenset({400, 404, 405, 409, 413})
"""Statuses that mean the request; all others mean that it cannot be done now."""


class Unreachable(ConnectionError):
    """OpenSearch does not answer, or cannot do it now; of a write it is unknown whether it has happened."""


class Refused(Exception):
    """OpenSearch will not do it, however often it is asked."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason[:500]}")
        self.status = status


class Cluster:
    """OpenSearch over HTTP: JSON there and back."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url.rstrip("/")

    async def ask(
        self, method: str, path: str, body: Body | bytes | None = None, *, kind: type[T], within: float = WITHIN
    ) -> T:
        """The answer, of that type. Raises `Unreachable`, and `Refused` for what is wrong with the request.

        `body`: JSON, or lines of it, as `_bulk` takes them. `within`: seconds.
        """
        content = body if isinstance(body, bytes) else None if body is None else msgspec.json.encode(body)
        lines = isinstance(body, bytes)
        headers = {"Content-Type": "application/x-ndjson" if lines else "application/json"} if content else {}
        try:
            async with (
                deadline(within),
                self._session.request(method, f"{self._url}/{path}", data=content, headers=headers) as answer,
            ):
                status, read = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError) as error:  # a deadline, too
            raise Unreachable(f"OpenSearch: {error!r}") from error
        if status < 300:
            return msgspec.json.decode(read, type=kind)
        told = read.decode(errors="replace")
        if status in WRONG:
            raise Refused(status, told)
        raise Unreachable(f"OpenSearch answers {status}: {told[:300]}")
