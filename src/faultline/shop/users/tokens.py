"""Access tokens: what they say of whom."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pydantic import BaseModel

from faultline.shop.contracts import Role
from faultline.shop.users import domain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faultline.shop.users.domain import Account
    from faultline.shop.users.keys import Keys

OURS = "storefront"  # the client of a token that was got with a session


class Token(BaseModel):
    """An access token as RFC 6749 gives it; `expires_in`: seconds."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 -- a name
    expires_in: int = domain.ACCESS
    scope: str
    refresh_token: str | None = None


class Tokens:
    """Made by the key that signs now."""

    def __init__(self, keys: Keys, *, issuer: str) -> None:
        self._keys = keys
        self.issuer = issuer

    @property
    def is_secure(self) -> bool:
        """Whether cookies may be had by https only: on this machine there is none."""
        return self.issuer.startswith("https://")

    async def of(self, account: Account, *, client: str, scopes: Iterable[str], refresh: str = "") -> Token:
        """For somebody; the scopes are those that their role may have."""
        return await self._made(account.id, account.role, client, scopes, refresh)

    async def of_client(self, client: str, scopes: Iterable[str]) -> Token:
        """For a program that acts for nobody but itself."""
        return await self._made(client, Role.PARTNER, client, scopes, "")

    async def _made(self, subject: str, role: Role, client: str, scopes: Iterable[str], refresh: str) -> Token:
        scope = " ".join(sorted(scopes))
        claims = {"sub": subject, "role": str(role), "scope": scope, "client_id": client, "jti": str(uuid.uuid4())}
        return Token(access_token=await self._keys.signed(claims), scope=scope, refresh_token=refresh or None)
