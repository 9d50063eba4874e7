"""Accounts, clients, API keys, and what was granted, in PostgreSQL: each method is one transaction.

Of every secret there is only a hash. A code or a refresh token is locked before it is decided what showing it leads to;
so of any number that show it at once each sees what the one before has done.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg.errors import UniqueViolation

from faultline.shop.contracts import Role, Scope, UserErased, UserRegistered, said
from faultline.shop.logs import request_id
from faultline.shop.users import domain
from faultline.shop.users.domain import Account, Client, Code, Family, Refresh, Reused, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    from faultline.patterns import Outbox

ACCOUNT = "SELECT id, email, role, version FROM account WHERE id = %s AND erased_at IS NULL"
BY_EMAIL = "SELECT id, password FROM account WHERE email = %s"
REGISTER = "INSERT INTO account (id, email, password, role) VALUES (%s, %s, %s, %s)"
PROMOTE = """
UPDATE account SET role = %s, version = version + 1 WHERE id = %s AND erased_at IS NULL
RETURNING id, email, role, version
"""
ERASE = """
UPDATE account SET email = NULL, password = NULL, erased_at = clock_timestamp(), version = version + 1
WHERE id = %s AND erased_at IS NULL RETURNING version
"""
CLIENT = "SELECT id, name, secret, redirect_uris, scopes FROM client WHERE id = %s"
ADD_CLIENT = "INSERT INTO client (id, name, secret, redirect_uris, scopes) VALUES (%s, %s, %s, %s, %s)"
ADD_CODE = """
INSERT INTO code (hash, client_id, user_id, redirect_uri, scopes, challenge, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp() + %s)
"""
CODE = """
SELECT client_id, user_id, redirect_uri, scopes, challenge, expires_at, family_id, clock_timestamp()
FROM code WHERE hash = %s FOR UPDATE
"""
REDEEM = "UPDATE code SET family_id = %s WHERE hash = %s"
ADD_FAMILY = """
INSERT INTO family (id, user_id, client_id, scopes, ends_at) VALUES (%s, %s, %s, %s, clock_timestamp() + %s)
"""
ADD_REFRESH = """
INSERT INTO refresh_token (hash, family_id, number, expires_at)
SELECT %s, id, %s, least(clock_timestamp() + %s, ends_at) FROM family WHERE id = %s
"""
FAMILY = """
SELECT id, user_id, client_id, scopes, ends_at, revoked_at IS NOT NULL FROM family
WHERE id = (SELECT family_id FROM refresh_token WHERE hash = %s) FOR UPDATE
"""
SHOWN = """
SELECT number, (SELECT max(number) FROM refresh_token WHERE family_id = mine.family_id), expires_at, used_at,
    clock_timestamp()
FROM refresh_token AS mine WHERE hash = %s
"""
USE = "UPDATE refresh_token SET used_at = clock_timestamp() WHERE hash = %s"
REUSE = "UPDATE refresh_token SET reused_at = clock_timestamp() WHERE hash = %s AND reused_at IS NULL"
REVOKE = "UPDATE family SET revoked_at = clock_timestamp(), reason = %s WHERE id = %s AND revoked_at IS NULL"
REVOKE_ALL = "UPDATE family SET revoked_at = clock_timestamp(), reason = %s WHERE user_id = %s AND revoked_at IS NULL"
WITHDRAW = "DELETE FROM code WHERE user_id = %s AND family_id IS NULL"
FORGET = (
    "DELETE FROM code WHERE expires_at < clock_timestamp() - interval '1 day'",
    "DELETE FROM family WHERE ends_at < clock_timestamp() - interval '1 day'",
)
ADD_KEY = "INSERT INTO api_key (id, user_id, name, hash, scopes) VALUES (%s, %s, %s, %s, %s)"
KEYS = """
SELECT id, name, scopes, made_at, used_at FROM api_key WHERE user_id = %s AND revoked_at IS NULL ORDER BY made_at, id
"""
KEY = "SELECT hash, user_id, scopes FROM api_key WHERE id = %s AND revoked_at IS NULL"
KEY_USED = "UPDATE api_key SET used_at = clock_timestamp() WHERE id = %s"
REVOKE_KEY = """
UPDATE api_key SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = %s AND user_id = %s
"""
REVOKE_KEYS = "UPDATE api_key SET revoked_at = clock_timestamp() WHERE user_id = %s AND revoked_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a token is to say: for whom, by which client, and what it is good for."""

    user: str
    client: str
    scopes: frozenset[Scope]
    refresh: str = field(default="", repr=False)
    """The refresh token that goes with it; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as its owner sees it; `id` is what it begins with."""

    id: str
    name: str
    scopes: frozenset[Scope]
    made_at: datetime
    used_at: datetime | None


class Accounts:
    """Who there is. Erasing one ends in the same transaction all that was granted for it."""

    def __init__(self, pool: AsyncConnectionPool, outbox: Outbox) -> None:
        self._pool, self._outbox = pool, outbox

    async def prepare(self) -> None:
        """Make the outbox, which is the pattern's own table."""
        async with self._pool.connection() as connection:
            await self._outbox.create(connection)

    async def ready(self) -> None:
        """Raises what the pool or the server raises when there is no answer."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT")

    async def register(self, email: str, password: str, role: Role) -> Account | None:
        """A new account with this hash of a password; None if the address is somebody's."""
        account = Account(id=str(uuid.uuid4()), email=email, role=role, version=1)
        event = UserRegistered(user=account.id, email_hash=hashlib.sha256(email.encode()).hexdigest(), role=role)
        try:
            async with self._pool.connection() as tx, tx.transaction():
                await tx.execute(REGISTER, [account.id, email, password, role])
                await self._say(tx, event, account.version)
        except UniqueViolation:
            return None
        return account

    async def find(self, user: str) -> Account | None:
        """Who that is; None if nobody, or erased."""
        return _account(await self._row(ACCOUNT, user))

    async def password(self, email: str) -> tuple[str, str] | None:
        """Whose address it is, and what is kept of their password."""
        return await self._row(BY_EMAIL, email)

    async def promote(self, user: str, role: Role) -> Account | None:
        """Give them this role; None if there is nobody. Tokens that they hold say the old one until they end."""
        return _account(await self._row(PROMOTE, role, user))

    async def erase(self, user: str) -> None:
        """Forget who that was, and revoke all that was granted. Repeating it is safe."""
        async with self._pool.connection() as tx, tx.transaction():
            row = await (await tx.execute(ERASE, [user])).fetchone()
            if row:
                await tx.execute(REVOKE_ALL, ["erased", user])
                await tx.execute(WITHDRAW, [user])
                await tx.execute(REVOKE_KEYS, [user])
                await self._say(tx, UserErased(user=user), row[0])

    async def _row(self, statement: LiteralString, *values: object) -> tuple[Any, ...] | None:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement, values)).fetchone()

    async def _say(self, tx: AsyncConnection, event: UserRegistered | UserErased, version: int) -> None:
        word = said(event, subject=event.user, sequence=version, time=datetime.now(UTC), correlation=request_id.get())
        await self._outbox.append(tx, word)


class Clients:
    """Programs that may ask for tokens."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def find(self, client: str) -> Client | None:
        """Which that is."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(CLIENT, [client])).fetchone()
        if row is None:
            return None
        id_, name, secret, uris, scopes = row
        return Client(id=id_, name=name, secret=secret, redirect_uris=tuple(uris), scopes=_scopes(scopes))

    async def add(
        self, name: str, *, redirect_uris: Iterable[str], scopes: frozenset[Scope], keeps_secrets: bool
    ) -> tuple[str, str]:
        """A new one: its id and its secret, which nobody can look up later; empty for one that cannot keep any."""
        client, secret = str(uuid.uuid4()), secrets.token_urlsafe(32) if keeps_secrets else ""
        kept = domain.digest(secret) if secret else None
        async with self._pool.connection() as connection:
            await connection.execute(ADD_CLIENT, [client, name, kept, list(redirect_uris), sorted(scopes)])
        return client, secret


class Grants:
    """Codes, and families of refresh tokens."""

    def __init__(self, pool: AsyncConnectionPool, secret: str) -> None:
        """`secret`: what next tokens are made by."""
        self._pool, self._secret = pool, secret

    async def consent(
        self, *, client: str, user: str, redirect_uri: str, scopes: frozenset[Scope], challenge: str
    ) -> str:
        """A code for what a user has consented to."""
        code = secrets.token_urlsafe(32)
        kept = [domain.digest(code), client, user, redirect_uri, sorted(scopes), challenge, domain.CODE]
        async with self._pool.connection() as connection:
            await connection.execute(ADD_CODE, kept)
        return code

    async def redeem(self, code: str, *, client: str, redirect_uri: str, verifier: str) -> Granted:
        """The beginning of a family. Raises `Refused`, and `Reused` when all of the family is revoked."""
        kept = domain.digest(code)
        async with self._pool.connection() as tx, tx.transaction():
            row = await (await tx.execute(CODE, [kept])).fetchone()
            found = _code(row[:-1]) if row else None
            now = row[-1] if row else datetime.now(UTC)
            try:
                found = domain.redeemed(found, client=client, redirect_uri=redirect_uri, verifier=verifier, now=now)
            except Reused as error:
                assert found
                await tx.execute(REVOKE, ["code reused", found.family])
                refusal = error
            else:
                family, first = str(uuid.uuid4()), f"rt_{secrets.token_urlsafe(32)}"
                begun = [family, found.user, client, sorted(found.scopes), domain.ABSOLUTE]
                await tx.execute(ADD_FAMILY, begun)
                await tx.execute(ADD_REFRESH, [domain.digest(first), 1, domain.IDLE, family])
                await tx.execute(REDEEM, [family, kept])
                return Granted(user=found.user, client=client, scopes=found.scopes, refresh=first)
        raise refusal  # once the revocation is committed

    async def refresh(self, token: str, *, client: str) -> Granted:
        """The next of a family. Raises `Refused`, and `Reused` when all of the family is revoked."""
        kept, following = domain.digest(token), domain.following(self._secret, token)
        async with self._pool.connection() as tx, tx.transaction():
            family, shown, now = await _shown(tx, kept)
            try:
                turn = domain.turned(shown, family, client=client, now=now)
                if turn is Turn.AGAIN and not await _is_there(tx, following):
                    raise domain.Refused("it was made with another secret of ours, and cannot be given again")
            except Reused as error:
                await tx.execute(REUSE, [kept])
                await tx.execute(REVOKE, ["token reused", family.id])
                refusal = error
            else:
                if turn is Turn.NEXT:
                    await tx.execute(USE, [kept])
                    new = [domain.digest(following), shown.number + 1, domain.IDLE, family.id]
                    await tx.execute(ADD_REFRESH, new)
                return Granted(user=family.user, client=client, scopes=family.scopes, refresh=following)
        raise refusal  # once the revocation is committed

    async def revoke(self, token: str, *, client: str) -> None:
        """Revoke the family of a refresh token, if this client's. Repeating it is safe."""
        async with self._pool.connection() as tx, tx.transaction():
            row = await (await tx.execute(FAMILY, [domain.digest(token)])).fetchone()
            if row and row[2] == client:
                await tx.execute(REVOKE, ["by its client", row[0]])

    async def revoke_all(self, user: str) -> None:
        """Revoke all families of a user, and codes that would begin one. Repeating it is safe."""
        async with self._pool.connection() as tx, tx.transaction():
            await tx.execute(WITHDRAW, [user])
            await tx.execute(REVOKE_ALL, ["logged out", user])

    async def forget(self) -> None:
        """Forget what has ended for more than a day: by then its tokens are refused for being unknown."""
        async with self._pool.connection() as connection:
            for statement in FORGET:
                await connection.execute(statement)


class ApiKeys:
    """Keys for programs of one's own; they act for their owner."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    async def add(self, user: str, name: str, scopes: frozenset[Scope]) -> tuple[str, str]:
        """A new one: what it begins with, and the whole of it, which nobody can look up later."""
        public = "fk_" + base64.b32encode(secrets.token_bytes(10)).decode().lower()
        secret = secrets.token_urlsafe(32)
        async with self._pool.connection() as connection:
            await connection.execute(ADD_KEY, [public, user, name, domain.digest(secret), sorted(scopes)])
        return public, f"{public}_{secret}"

    async def of(self, user: str) -> list[ApiKey]:
        """All of a user that were not revoked, the oldest first."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(KEYS, [user])).fetchall()
        return [
            ApiKey(id=id_, name=name, scopes=_scopes(scopes), made_at=made_at, used_at=used_at)
            for id_, name, scopes, made_at, used_at in rows
        ]

    async def use(self, key: str) -> Granted:
        """Whom it acts for, and what it is good for: one row, one digest. Raises `Refused`."""
        public, secret = domain.parted(key)
        async with self._pool.connection() as connection:
            row = await (await connection.execute(KEY, [public])).fetchone()
            kept, user, scopes = row or (None, "", [])
            if not domain.is_secret(secret, kept):
                raise domain.Refused("there is no such API key")
            await connection.execute(KEY_USED, [public])
        return Granted(user=user, client=public, scopes=_scopes(scopes))

    async def revoke(self, key: str, user: str) -> bool:
        """Revoke one by what it begins with, if it is this user's; repeating it is safe."""
        async with self._pool.connection() as connection:
            return (await connection.execute(REVOKE_KEY, [key, user])).rowcount == 1


async def _shown(tx: AsyncConnection, kept: str) -> tuple[Family, Refresh, datetime]:
    """A refresh token and its family, which is locked: the others of it wait. Raises `Refused`."""
    row = await (await tx.execute(FAMILY, [kept])).fetchone()
    if row is None:
        raise domain.Refused("there is no such token")
    id_, user, client, scopes, ends_at, is_revoked = row
    family = Family(id=id_, user=user, client=client, scopes=_scopes(scopes), ends_at=ends_at, is_revoked=is_revoked)
    found = await (await tx.execute(SHOWN, [kept])).fetchone()
    assert found, "a family is forgotten with its tokens"
    number, newest, expires_at, used_at, now = found  # the clock is read behind the lock: not before the last use
    return family, Refresh(number=number, newest=newest, expires_at=expires_at, used_at=used_at), now


async def _is_there(tx: AsyncConnection, token: str) -> bool:
    return await (await tx.execute(SHOWN, [domain.digest(token)])).fetchone() is not None


def _account(row: tuple[Any, ...] | None) -> Account | None:
    if row is None:
        return None
    id_, email, role, version = row
    return Account(id=id_, email=email, role=Role(role), version=version)


def _code(row: tuple[Any, ...]) -> Code:
    client, user, uri, scopes, challenge, expires_at, family = row
    return Code(
        client=client,
        user=user,
        redirect_uri=uri,
        scopes=_scopes(scopes),
        challenge=challenge,
        expires_at=expires_at,
        family=family,
    )


def _scopes(words: Iterable[str]) -> frozenset[Scope]:
    """Those that are known: one that this version does not know opens nothing."""
    known = {str(scope) for scope in Scope}
    return frozenset(Scope(word) for word in words if word in known)
