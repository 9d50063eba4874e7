"""The keys that sign access tokens: made, announced, used for a day, and published until the last of it has ended.

              announced      signs                      published only
    ──────────────┤──────────────┼──────────────────────────────┼──────────┤──►
               5 min before                                 6 min after

Whoever verifies has a new key before the first token of it comes. Private keys lie in PostgreSQL, sealed with
`SHOP_USERS_SECRET`: whoever reads the database can sign nothing. With another secret they cannot be opened; then there
is a new key at once, and the old one is still published.
"""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING, Any

from joserfc import jwt
from joserfc.jwk import ECKey
from psycopg.types.json import Jsonb

from faultline.shop.contracts import ACCESS_TYPE, ALGORITHM, AUDIENCE
from faultline.shop.users.domain import ACCESS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

SIGNS, BEFORE, AFTER = 24 * 3600, 300, ACCESS + 60  # seconds
MEET = "SELECT pg_advisory_xact_lock(hashtextextended('signing keys', 0))"
LAST = """
SELECT max(signs_until), max(signs_until) > clock_timestamp() + make_interval(secs => %s) FROM signing_key
WHERE seal = %s
"""
ADD = """
INSERT INTO signing_key (kid, public, sealed, seal, signs_from, signs_until, published_until)
SELECT %(kid)s, %(public)s, %(sealed)s, %(seal)s, since, since + make_interval(secs => %(signs)s),
    since + make_interval(secs => %(signs)s + %(after)s)
FROM (SELECT greatest(clock_timestamp(), %(since)s::timestamptz) AS since) AS begin
"""
NOW = """
SELECT kid, sealed FROM signing_key WHERE seal = %s AND signs_from <= clock_timestamp()
AND signs_until > clock_timestamp() ORDER BY signs_from DESC LIMIT 1
"""
PUBLISHED = "SELECT public FROM signing_key WHERE published_until > clock_timestamp() ORDER BY signs_from"
FORGET = "DELETE FROM signing_key WHERE published_until < clock_timestamp() - interval '1 day'"


class Keys:
    """All replicas share them."""

    def __init__(self, pool: AsyncConnectionPool, secret: str, *, issuer: str) -> None:
        self._pool, self._secret, self._issuer = pool, secret, issuer
        self.seal = hmac.digest(secret.encode(), b"whose seal", "sha256").hex()
        self._opened: dict[str, ECKey] = {}

    async def ensure(self) -> None:
        """See that there is one that signs, and the next one in time; forget those that nobody needs."""
        async with self._pool.connection() as tx, tx.transaction():
            await tx.execute(MEET)
            found = await (await tx.execute(LAST, [BEFORE, self.seal])).fetchone()
            assert found
            until, is_enough = found
            if not is_enough:
                await self._add(tx, since=until)
                await tx.execute(FORGET)

    async def _add(self, tx: AsyncConnection, *, since: object) -> None:
        key = ECKey.generate_key("P-256", {"alg": ALGORITHM, "use": "sig"}, auto_kid=True)
        values = {
            "kid": key.kid,
            "public": Jsonb(key.as_dict(private=False)),
            "sealed": key.as_pem(private=True, password=self._secret).decode(),
            "seal": self.seal,
            "since": since,
            "signs": SIGNS,
            "after": AFTER,
        }
        await tx.execute(ADD, values)

    async def signed(self, claims: Mapping[str, str]) -> str:
        """An access token that says so, for five minutes."""
        kid, key = await self._now()
        now = int(time.time())
        whole = {**claims, "iss": self._issuer, "aud": AUDIENCE, "iat": now, "exp": now + ACCESS}
        return jwt.encode({"alg": ALGORITHM, "kid": kid, "typ": ACCESS_TYPE}, whole, key, algorithms=[ALGORITHM])

    async def _now(self) -> tuple[str, ECKey]:
        if not (found := await self._signing()):
            await self.ensure()
            found = await self._signing()
            assert found, "there is a key that signs now"
        kid, sealed = found
        if kid not in self._opened:
            self._opened = {kid: ECKey.import_key(sealed, password=self._secret)}
        return kid, self._opened[kid]

    async def _signing(self) -> tuple[str, str] | None:
        async with self._pool.connection() as connection:
            return await (await connection.execute(NOW, [self.seal])).fetchone()

    async def published(self) -> list[dict[str, Any]]:
        """The public ones, as a JWK set lists them."""
        async with self._pool.connection() as connection:
            return [key for (key,) in await (await connection.execute(PUBLISHED)).fetchall()]
