"""Who has sent an access token: checked here, with the public keys of users, which are kept.

A key that is not known is asked for, but not more often than every 5 s: anybody can make one up. What is known is asked
for again every minute, so that a key which is withdrawn ends. While users does not answer, known keys stay good.

The token chooses nothing: neither how it was signed (one algorithm), nor what it is (an access token), nor for whom.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from joserfc.jws import extract_compact

from faultline.patterns import NotTried
from faultline.shop.contracts import ACCESS_TYPE, ALGORITHM, AUDIENCE, Role
from faultline.shop.gateway.domain import Subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

AGAIN = 5.0  # seconds between two questions for what is not known
EVERY = 60.0  # seconds between two looks at what is
LONGEST = 4096  # characters of a token
LEEWAY = 10  # seconds by which the clocks of two machines may differ

STRANGE = (JoseError, ValueError, TypeError, LookupError)
"""Whatever may come of what a stranger has written into a token."""

log = logging.getLogger(__name__)


class BadToken(Exception):
    """It is nobody's, or not any more; the message says no more than that."""


class NotKnownYet(Exception):
    """Users does not answer, so nobody can tell; it may be good."""


class Keys:
    """The public keys of one issuer."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes | None]],
        *,
        issuer: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fetch`: the JWK set, or it raises `OSError` or `NotTried`. `clock`: seconds, for how often it is asked."""
        self._fetch, self._clock = fetch, clock
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": AUDIENCE},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        self._known: dict[str, ECKey] = {}
        self._asked_at = -AGAIN
        self._answered = False
        self._asking = asyncio.Lock()

    async def verified(self, token: str) -> Subject:
        """Whose it is, and what it is good for. Raises `BadToken` and `NotKnownYet`."""
        try:
            key = await self._key(_kid(token))
            found = jwt.decode(token, key, algorithms=[ALGORITHM]).claims
            self._claims.validate(found)
            return _subject(found)
        except STRANGE as error:
            raise BadToken(type(error).__name__) from error

    async def learn(self) -> None:
        """Ask for all keys, and know these from now on. Raises what `fetch` does, and changes nothing then.

        Raises `ConnectionError` for an answer without keys: there is always one, so that is not users'.
        """
        answer = await self._fetch()
        try:
            keys = json.loads(answer or b"{}")["keys"]
            known = {str(key["kid"]): ECKey.import_key(key) for key in keys if key.get("kty") == "EC"}
        except STRANGE as error:
            raise ConnectionError(f"these are no keys: {error!r}") from error
        if not known:
            raise ConnectionError("there are no keys")
        self._known = known

    async def _key(self, kid: str) -> ECKey:
        if kid not in self._known:
            async with self._asking:  # the others wait for the one who asks
                if kid not in self._known and self._clock() - self._asked_at >= AGAIN:
                    await self._ask()
        if found := self._known.get(kid):
            return found
        if not self._answered:
            raise NotKnownYet
        raise BadToken("its key is nobody's")

    async def _ask(self) -> None:
        self._asked_at, self._answered = self._clock(), False
        try:
            await self.learn()
            self._answered = True
        except (OSError, NotTried) as error:
            log.warning("the keys of users are not to be had", extra={"reason": repr(error)})


def _kid(token: str) -> str:
    """Which key it names. Raises `BadToken` and `JoseError`."""
    if len(token) > LONGEST:
        raise BadToken("too long")
    header = extract_compact(token.encode()).headers()
    kid = header.get("kid")
    if header.get("alg") != ALGORITHM or header.get("typ") != ACCESS_TYPE or not isinstance(kid, str):
        raise BadToken("no access token")
    return kid


def _subject(claims: dict[str, Any]) -> Subject:
    scope = claims["scope"]
    if not isinstance(scope, str) or not isinstance(claims["sub"], str):
        raise TypeError("scope and sub are texts")
    return Subject(id=claims["sub"], role=Role(claims["role"]), scopes=frozenset(scope.split()))
