"""The rules of what opens an account: no I/O, no await, no clock.

    consent ─► code, 60 s ─┬─ redeemed, with its verifier ─► family of refresh tokens: 1 ─► 2 ─► 3 ─► …
                           └─ shown again ─► what it was redeemed for is revoked
    refresh token ─┬─ the live one ─► the next one
                   ├─ the one before the live one, within 10 s ─► the same next one again: its reply was lost
                   └─ used before ─► somebody has a copy: the family is revoked

A next token is made of the one before and a secret of ours, so it can be given twice although only its hash is kept.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from urllib.parse import urlsplit

from faultline.shop.contracts import FIRST_HAND, Role, Scope

ACCESS = 300  # seconds for which an access token is good, whatever happens meanwhile
CODE = timedelta(seconds=60)
IDLE = timedelta(days=14)  # of a refresh token that nobody uses
ABSOLUTE = timedelta(days=90)  # of a family
GRACE = timedelta(seconds=10)  # in which a lost reply is asked for again

EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,180}\.[^\s@.]{2,63}")
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
API_KEY = re.compile(r"(fk_[a-z2-7]{16})_([A-Za-z0-9_-]{43})")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

SHOPPING = frozenset({Scope.ACCOUNT, Scope.CART, Scope.NOTIFICATIONS, Scope.ORDERS_READ, Scope.ORDERS_WRITE})
MAY_HAVE = {
    Role.CUSTOMER: SHOPPING,
    Role.SUPPORT: SHOPPING,
    Role.ADMIN: frozenset(Scope),
    Role.PARTNER: frozenset({Scope.STOCK_WRITE}),
}
"""What a role may be given a token for."""

REACHES_ALL = {Role.SUPPORT: frozenset({Scope.ORDERS_READ}), Role.ADMIN: frozenset({Scope.ORDERS_READ})}
"""With what a role reaches everybody's things. It is theirs to do, and not their programs'."""


class Refused(Exception):
    """Not given; the message is for a developer, and says nothing that would help to guess."""


class Reused(Refused):
    """Not given, and what was shown had been used before: all that came of it is to be revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody; without an address and a password once erased."""

    id: str
    email: str | None
    role: Role
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program that asks for tokens; `secret`: hashed, None for one that cannot keep any."""

    id: str
    name: str
    secret: str | None
    redirect_uris: tuple[str, ...]
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What somebody's consent is exchanged by."""

    client: str
    user: str
    redirect_uri: str
    scopes: frozenset[Scope]
    challenge: str
    expires_at: datetime
    family: str | None
    """What it was redeemed for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All refresh tokens of one consent."""

    id: str
    user: str
    client: str
    scopes: frozenset[Scope]
    ends_at: datetime
    is_revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """One of them; `newest`: the number of the family's last one."""

    number: int
    newest: int
    expires_at: datetime
    used_at: datetime | None


class Turn(Enum):
    """What a refresh token that is shown leads to."""

    NEXT = "the next one is made"
    AGAIN = "the next one was made, and its reply may have been lost: it is given again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for a consent that may be shown to a user: its client and where it leads back to are known."""

    client: Client
    redirect_uri: str
    state: str


def address(email: str) -> str:
    """An address as it is compared. Raises `Refused` for what is none."""
    small = email.strip().lower()
    if not EMAIL.fullmatch(small):
        raise Refused("this is no address")
    return small


def digest(secret: str) -> str:
    """What is kept of a secret of 256 bits: nobody guesses it, so neither a salt nor a slow function is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_secret(given: str, kept: str | None) -> bool:
    """Whether it is what was kept of it."""
    return hmac.compare_digest(digest(given), kept or "")


def challenged(verifier: str) -> str:
    """The challenge to a verifier (RFC 7636, S256)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def following(secret: str, token: str) -> str:
    """The refresh token after this one: the same however often it is asked for, and no guess without our secret."""
    made = hmac.digest(secret.encode(), b"refresh token after " + token.encode(), "sha256")
    return "rt_" + base64.urlsafe_b64encode(made).decode().rstrip("=")


def parted(key: str) -> tuple[str, str]:
    """The name of an API key, by which it is found, and its secret. Raises `Refused`."""
    if found := API_KEY.fullmatch(key):
        return found[1], found[2]
    raise Refused("this is no API key")


def redirect_uri(uri: str) -> str:
    """One that a client may have: https, or this machine. Raises `Refused`."""
    try:
        parts = urlsplit(uri)
        ours = parts.hostname in LOOPBACK and parts.port != 0
    except ValueError as error:
        raise Refused(f"{uri}: {error}") from error
    if not (parts.scheme == "https" or (parts.scheme == "http" and ours)) or not parts.hostname:
        raise Refused(f"{uri}: https://…, or http:// on this machine")
    if parts.fragment or "#" in uri or parts.username or not uri.isascii() or not uri.isprintable() or " " in uri:
        raise Refused(f"{uri}: no fragment, no user, no blanks")
    return uri


def scopes(asked: str | Iterable[str], within: Collection[Scope]) -> frozenset[Scope]:
    """Those of a text or a list, of which all must be `within`. Raises `Refused`, also for none."""
    words = asked.split(" ") if isinstance(asked, str) else list(asked)
    found = frozenset(scope for scope in within if scope in words)
    if not found or found != set(words):
        raise Refused(f"scopes may be: {' '.join(sorted(within)) or 'none'}")
    return found


def delegable(role: Role) -> frozenset[Scope]:
    """What this role may give to a program: nothing with which it would reach more than its user's own."""
    return MAY_HAVE[role] - FIRST_HAND - REACHES_ALL.get(role, frozenset())


def asked(client: Client | None, redirect_uri: str, state: str) -> Asked:
    """Where an answer may go. Raises `Refused`: then it must go nowhere, since whoever asks may be anybody.

    The address is compared as a whole: one that only begins alike may be somebody else's.
    """
    if client is None:
        raise Refused("there is no such client")
    if redirect_uri not in client.redirect_uris:
        raise Refused("redirect_uri is none of the client's")
    return Asked(client=client, redirect_uri=redirect_uri, state=state)


def redeemed(code: Code | None, *, client: str, redirect_uri: str, verifier: str, now: datetime) -> Code:
    """The code, if this client may have its tokens. Raises `Refused` and `Reused`.

    Who shows a wrong verifier does not use it up: whoever has intercepted it could then do that at least.
    """
    if code is None or code.client != client:
        raise Refused("there is no such code")
    if code.family is not None:
        raise Reused("the code was used before")
    if code.expires_at <= now:
        raise Refused("the code has expired")
    if code.redirect_uri != redirect_uri:
        raise Refused("redirect_uri is not the one that the code was sent to")
    if not VERIFIER.fullmatch(verifier) or not hmac.compare_digest(challenged(verifier), code.challenge):
        raise Refused("code_verifier does not fit")
    return code


def turned(token: Refresh, family: Family, *, client: str, now: datetime) -> Turn:
    """What showing a refresh token leads to. Raises `Refused` and `Reused`."""
    if family.client != client:
        raise Refused("there is no such token")
    if family.is_revoked or family.ends_at <= now:
        raise Refused("all tokens of this consent have ended")
    if token.used_at is None:
        if token.expires_at <= now:
            raise Refused("the token has expired")
        return Turn.NEXT
    is_before_the_live_one = token.number == token.newest - 1
    if is_before_the_live_one and token.used_at <= now < token.used_at + GRACE:
        return Turn.AGAIN
    raise Reused("the token was used before")


def query(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The parameters of a request. Raises `Refused` where one is given twice: each reader might take another one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("a parameter is given twice")
    return found
