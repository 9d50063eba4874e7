"""Those who have to do with users, in tests: accounts, their sessions and tokens, and programs that ask for some."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.shop.conftest import DEADLINE, Reply

from faultline.components.http import ask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.shop.conftest import Shop

PASSWORD = "correct horse battery"
BUSY = {502, 503, 504}
BACK = "http://127.0.0.1:3999/back"


def guest(name: str) -> str:
    """The secret of a guest: always the same for one name."""
    return hashlib.sha256(f"the secret of {name}".encode()).hexdigest()


def guest_id(name: str) -> str:
    """Who that guest is to all services."""
    return f"guest-{hashlib.sha256(guest(name).encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class Person:
    """An account, logged in."""

    id: str
    email: str
    cookie: str
    """As a browser sends it."""


async def person(shop: Shop, role: str = "customer") -> Person:
    """A new one."""
    email = f"{role}-{secrets.token_hex(6)}@shop.example"
    made = await shop.ask("users-1", "/v1/users", {"email": email, "password": PASSWORD})
    assert made.status == 201, made.body
    if role != "customer":
        said = await shop.ask(
            "users-1", f"/v1/users/{made.body['id']}/role", {"role": role}, method="PUT", X_User="op", X_Whose="any"
        )
        assert said.status == 200, said.body
    return Person(made.body["id"], email, await log_in(shop, email))


async def log_in(shop: Shop, email: str, device: str = "") -> str:
    """The cookie of a new session."""
    reply = await shop.ask("users-1", "/v1/sessions", {"email": email, "password": PASSWORD, "device": device})
    assert reply.status == 201, reply.body
    return reply.headers["set-cookie"].partition(";")[0]


async def access(shop: Shop, who: Person) -> str:
    """An access token of theirs, for all that they may do."""
    reply = await shop.ask("users-1", "/v1/sessions/current/tokens", {}, Cookie=who.cookie)
    assert reply.status == 200, reply.body
    return str(reply.body["access_token"])


async def asked(shop: Shop, path: str, body: object = None, *, method: str = "", **headers: str) -> Reply:
    """What the gateway answers to what may be repeated; while the machine is too busy for its deadlines, again."""
    async with asyncio.timeout(DEADLINE):
        while True:
            reply = await shop.ask("gateway-1", path, body, method=method, **headers)
            if reply.status not in BUSY:
                return reply


async def form(shop: Shop, path: str, pairs: Iterable[tuple[str, str]], at: str = "users-1", **headers: str) -> Reply:
    """A form, posted; where a redirect leads to is not followed."""
    answer = await ask(
        f"http://127.0.0.1:{shop.process(at).port}{path}",
        method="POST",
        body=urlencode(list(pairs)).encode(),
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            **{key.replace("_", "-"): one for key, one in headers.items()},
        },
    )
    text = answer.body.decode()
    return Reply(answer.status, answer.headers, json.loads(text) if text.startswith("{") else text)


@dataclass(frozen=True, slots=True)
class Program:
    """A client of somebody else."""

    shop: Shop
    id: str
    secret: str | None

    async def consent(self, who: Person, scope: str | None = "orders:read", **other: str | None) -> tuple[Reply, str]:
        """What comes of asking them for it, and the verifier; `None` leaves a parameter out."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.id,
            "redirect_uri": BACK,
            "scope": scope,
            "state": "st ate",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "decision": "allow",
            **other,
        }
        pairs = [(name, value) for name, value in asked.items() if value is not None]
        return await form(self.shop, "/v1/oauth/authorize", pairs, Cookie=who.cookie), verifier

    async def code(self, who: Person, scope: str = "orders:read") -> tuple[str, str]:
        """A code, and its verifier."""
        reply, verifier = await self.consent(who, scope)
        assert reply.status == 303, reply.body
        return told(reply)["code"], verifier

    async def token(self, **fields: str) -> Reply:
        """What `/v1/oauth/token` says."""
        whole = {"client_id": self.id, **({"client_secret": self.secret} if self.secret else {}), **fields}
        return await form(self.shop, "/v1/oauth/token", whole.items())

    async def redeem(self, code: str, verifier: str, **other: str) -> Reply:
        """What it gets for a code."""
        fields = {"code": code, "code_verifier": verifier, "redirect_uri": BACK, **other}
        return await self.token(grant_type="authorization_code", **fields)

    async def refresh(self, token: str) -> Reply:
        """What it gets for a refresh token."""
        return await self.token(grant_type="refresh_token", refresh_token=token)

    async def tokens(self, who: Person, scope: str = "orders:read") -> dict[str, Any]:
        """All that a user's consent gives."""
        reply = await self.redeem(*await self.code(who, scope))
        assert reply.status == 200, reply.body
        return dict(reply.body)


async def program(shop: Shop, *, scopes: Iterable[str] = ("orders:read",), keeps_secrets: bool = False) -> Program:
    """A new one."""
    new = {"name": "a partner", "redirect_uris": [BACK], "scopes": list(scopes), "keeps_secrets": keeps_secrets}
    made = await shop.ask("users-1", "/v1/oauth/clients", new)
    assert made.status == 201, made.body
    return Program(shop, made.body["client_id"], made.body["client_secret"])


def told(reply: Reply) -> dict[str, str]:
    """What a redirect tells its client."""
    assert reply.headers["location"].startswith(f"{BACK}?")
    return dict(parse_qsl(urlsplit(reply.headers["location"]).query))


def claims(token: str) -> dict[str, Any]:
    """What it says, whoever has signed it."""
    body = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))
