"""The rules of the gateway: what passes, for whom, with which headers, to which replica. No I/O, no await, no clock."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from faultline.shop.contracts import Role, Scope

PREFIX = "/api"
WELL_KNOWN = "/.well-known/"  # what RFC 8615 has there is looked for there, and not behind a prefix
PART = re.compile(r"[A-Za-z0-9_-]{1,100}")  # of a path where the table has a name: no dot, no escape, no slash
GUEST = re.compile(r"[A-Za-z0-9_-]{32,128}")  # what nobody guesses, if chance has made it

Headers = list[tuple[bytes, bytes]]
"""Names in small letters."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Between two hops only, with what `Connection` names (RFC 9110, 7.6.1)."""
OURS = frozenset(
    {
        b"host",
        b"content-length",
        b"expect",
        b"x-request-id",
        b"x-deadline-remaining-ms",
        b"x-real-ip",
        b"x-user",
        b"x-whose",
        b"x-guest-user",
    }
)
"""Of a request: what the gateway says itself, and `Forwarded` and all `X-Forwarded-…`."""
CREDENTIALS = frozenset({b"authorization", b"cookie", b"x-guest"})
"""What opens something: it goes to users, whose it is, and to nobody else."""
THEIRS = frozenset({b"content-length", b"date", b"server"})
"""Of an answer: likewise."""
SINGLE = frozenset({b"authorization", b"x-guest", b"idempotency-key"})
"""Of two of these each hop could believe another one."""

SAFE: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-site"),
    (b"cache-control", b"no-store"),
]
"""Nobody frames us, guesses what a body is, or keeps what was not said to be kept. `/docs` has styles of its own, and
no script. Where a form may lead is not said: that of OAuth leads to whom the account consents to."""
SECURE: Headers = [(b"strict-transport-security", b"max-age=31536000; includeSubDomains")]
"""Only over TLS: elsewhere a browser ignores it."""

PLANS: Mapping[Role, int] = {Role.PARTNER: 10, Role.SUPPORT: 3, Role.ADMIN: 3}
"""How many times as often as everybody else they may ask: a program works for many, and who serves has many pages."""

IN_A_ROW = 3  # failures after which a replica is left out
LEFT_OUT = 2.0  # seconds


class Repeat(Enum):
    """When a request may be sent again of which nobody knows what has become."""

    ALWAYS = "it changes nothing"
    BY_KEY = "with an Idempotency-Key"
    NEVER = "never"


class Whose(Enum):
    """What of the things behind a route somebody may have to do with."""

    OWN = "own"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Needs:
    """Who may, and what a token must be good for; without a scope nothing is anybody's, and no token is needed."""

    scope: Scope | None
    may: Mapping[Role, Whose]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who asks; `scopes`: what their token is good for, None where they have none because they need none."""

    id: str
    role: Role
    scopes: frozenset[str] | None = None


NOBODY = Subject(id="", role=Role.NOBODY)


class Unknown(Exception):
    """Refused: whoever wants that must say who they are."""


class Forbidden(Exception):
    """Refused: not for them, or not with this token."""


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table; `seconds`: for the whole answer, or until it begins if it `streams`."""

    method: str
    path: str
    """The service's own; outside `/api` is before it. A part in braces stands for any one."""
    service: str
    seconds: float
    repeat: Repeat
    needs: Needs
    streams: bool = False
    kept: float = 0.0
    """Seconds for which the gateway may keep an answer."""

    @property
    def outside(self) -> str:
        """As callers know it."""
        return outside(self.path)


class Ambiguous(Exception):
    """Refused: a request that says twice who sends it, or by which key."""


class Table:
    """Routes, found by method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_length: dict[int, list[tuple[tuple[str, ...], Route]]] = defaultdict(list)
        for route in routes:
            parts = tuple(route.outside.split("/"))
            self._by_length[len(parts)].append((parts, route))

    def find(self, method: str, path: str) -> tuple[Route | None, tuple[str, ...]]:
        """Where it leads, and which methods that path has; `path` is as it was sent, with its escapes."""
        parts = path.split("/")
        found = [route for pattern, route in self._by_length.get(len(parts), ()) if _fits(pattern, parts)]
        match = next((route for route in found if route.method == method), None)
        return match, tuple(route.method for route in found)


def _fits(pattern: tuple[str, ...], parts: list[str]) -> bool:
    return all(
        PART.fullmatch(part) is not None if name.startswith("{") else name == part
        for name, part in zip(pattern, parts, strict=True)
    )


def outside(path: str) -> str:
    """How a service's own path is called from outside."""
    return path if path.startswith(WELL_KNOWN) else PREFIX + path


def allowed(subject: Subject, needs: Needs) -> Whose:
    """What of it they may have to do with. Raises `Unknown` and `Forbidden`: what is not in the table is refused."""
    if needs.scope is None:
        return Whose.ANY
    if subject.role is Role.NOBODY and Role.NOBODY not in needs.may:
        raise Unknown("send an access token, or as a guest X-Guest")
    if (whose := needs.may.get(subject.role)) is None:
        raise Forbidden(f"this is not for a {subject.role}")
    if subject.scopes is not None and needs.scope not in subject.scopes:
        raise Forbidden(f"this takes a token with the scope {needs.scope}")
    return whose


def guest(secret: str) -> Subject | None:
    """Who has this secret; None for one that could be guessed. What is kept of a guest, and seen, opens nothing."""
    if not GUEST.fullmatch(secret):
        return None
    return Subject(id=f"guest-{hashlib.sha256(secret.encode()).hexdigest()[:32]}", role=Role.GUEST)


def passed_on(headers: Iterable[tuple[bytes, bytes]], *, drop: frozenset[bytes] = CREDENTIALS) -> Headers:
    """What of a request's headers its service gets, besides those that are to be dropped. Raises `Ambiguous`."""
    kept = [
        (name, value)
        for name, value in _end_to_end(headers)
        if name not in OURS and name != b"forwarded" and not name.startswith(b"x-forwarded-")
    ]
    names = [name for name, _ in kept if name in SINGLE]
    if len(names) > len(set(names)):
        raise Ambiguous(f"more than one {names[0].decode()}")
    return [(name, value) for name, value in kept if name not in drop]


def given_back(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What of an answer's headers its caller gets; where it points to, as that is called outside."""
    return [
        (name, PREFIX.encode() + value if name == b"location" and value.startswith(b"/") else value)
        for name, value in _end_to_end(headers)
        if name not in THEIRS
    ]


def keepable(headers: Headers) -> bool:
    """Whether an answer with these may be kept for others: it sets nothing, says so, and is the same for everybody."""
    found = dict(headers)
    told = {word.strip().partition(b"=")[0].lower() for word in found.get(b"cache-control", b"").split(b",")}
    return not (told & {b"no-store", b"private"} or {b"set-cookie", b"vary"} & set(found))


def version(headers: Headers) -> int | None:
    """Of what the answer is about, by its `ETag`; None where that is no number."""
    bare = dict(headers).get(b"etag", b"").removeprefix(b"W/").strip(b'"')
    return int(bare) if bare.isdigit() else None


def same(seen: str, headers: Headers) -> bool:
    """Whether who sends this as `If-None-Match` has what these answer with (RFC 9110, 13.1.2: weak comparison)."""
    tag = dict(headers).get(b"etag", b"").decode("latin-1").removeprefix("W/")
    return bool(tag) and any(one.strip().removeprefix("W/") in {tag, "*"} for one in seen.split(","))


def safe(headers: Headers, *, secure: bool) -> Headers:
    """With what keeps a browser from doing more with an answer than it should, where its service has not said so."""
    given = {name for name, _ in headers}
    more = [*SAFE, *(SECURE if secure else ())]
    return headers + [(name, value) for name, value in more if name not in given]


def product_page(product: Mapping[str, Any], parts: Mapping[str, Any], similar: int) -> dict[str, Any]:
    """The page: of each part what matters; in `parts` None is missing, and `{}` not known to its service.

    `similar`: how many other products it shows at most.
    """
    sku = product["sku"]
    stock, prices, cart, found = (parts.get(name) for name in ("stock", "prices", "cart", "similar"))
    held = {line["sku"]: line["quantity"] for line in (cart or {}).get("lines", ())}
    others = (found or {}).get("items", ())
    return {
        "product": product,
        "stock": None if stock is None else {"available": stock.get("available", 0)},
        "prices": None if prices is None else prices or [],
        "in_cart": None if cart is None else held.get(sku, 0),
        "similar": None if found is None else [_card(one) for one in others if one["sku"] != sku][:similar],
        "missing": sorted(name for name, part in parts.items() if part is None),
    }


def _card(product: Mapping[str, Any]) -> dict[str, Any]:
    return {name: product[name] for name in ("sku", "name", "price")}


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    small = [(name.lower(), value) for name, value in headers]
    named = {one.strip().lower() for name, value in small if name == b"connection" for one in value.split(b",")}
    return [(name, value) for name, value in small if name not in HOP_BY_HOP and name not in named]


@dataclass(slots=True, eq=False)
class Replica:
    """One process of a service, and what its last answers say of it."""

    address: str
    in_flight: int = 0
    failures: int = 0
    """In a row."""
    out_until: float = 0.0

    def answered(self) -> None:
        """It does what it should."""
        self.failures = 0

    def failed(self, now: float) -> None:
        """It does not; the third time in a row it is left out, and after that each time."""
        self.failures += 1
        if self.failures >= IN_A_ROW:
            self.out_until = now + LEFT_OUT


def chosen(
    replicas: Sequence[Replica], *, now: float, avoid: Sequence[Replica], random: Callable[[], float]
) -> Replica:
    """Of two by chance the one that has less to do; of those left out one only where there is no other.

    Always the least busy would send everybody who does not yet know of each other to the same one.
    """
    able = (
        [one for one in replicas if one.out_until <= now and one not in avoid]
        or [one for one in replicas if one not in avoid]
        or list(replicas)
    )
    first = able.pop(int(random() * len(able)))
    if not able:
        return first
    second = able[int(random() * len(able))]
    return second if second.in_flight < first.in_flight else first
