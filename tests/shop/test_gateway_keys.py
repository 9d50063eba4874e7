"""Which access tokens the gateway takes for good: forged ones, old ones, and what it asks users for meanwhile."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, RSAKey

from faultline.shop.contracts import Role
from faultline.shop.gateway.keys import AGAIN, BadToken, Keys, NotKnownYet

ISSUER = "http://127.0.0.1:8000"
KEY = ECKey.generate_key("P-256", {"alg": "ES256", "use": "sig"}, auto_kid=True)
RSA = RSAKey.generate_key(2048, auto_kid=True)
EVES = ECKey.generate_key("P-256", {"kid": str(KEY.kid)})
HEADER = {"alg": "ES256", "kid": KEY.kid, "typ": "at+jwt"}
NOW = int(time.time())  # of the import: a test may run much later
DAY = 24 * 3600
CLAIMS = {
    "iss": ISSUER,
    "aud": "shop",
    "sub": "ann",
    "role": "customer",
    "scope": "cart orders:read",
    "iat": NOW,
    "exp": NOW + DAY,
}


class Users:
    """As much of users as the gateway asks for."""

    def __init__(self, *keys: ECKey | RSAKey) -> None:
        self.keys, self.asked, self.gone, self.now = list(keys), 0, False, 1000.0
        self.instead: bytes | None = None

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.instead is not None:
            return self.instead
        if self.gone:
            raise ConnectionRefusedError
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]}).encode()

    def gateway(self) -> Keys:
        return Keys(self.fetch, issuer=ISSUER, clock=lambda: self.now)


def token(key: Any = KEY, header: dict[str, Any] | None = None, **claims: Any) -> str:
    told = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return signed(key, json.dumps(told).encode(), **(header or {}))


def signed(key: Any, body: bytes, **header: Any) -> str:
    told = {name: value for name, value in {**HEADER, **header}.items() if value is not None}
    return jws.serialize_compact(told, body, key, algorithms=["ES256", "HS256", "RS256"])


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def by_hand(header: dict[str, Any]) -> str:
    """No library lets itself be used for that."""
    text = f"{part(header)}.{part(CLAIMS)}"
    return f"{text}.{part(hmac.digest(KEY.as_pem(private=False), text.encode(), 'sha256'))}"


GOOD = token()
FORGED: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no token": lambda: "nonsense",
    "three parts of nothing": lambda: "..",
    "not signed": lambda: f"{part({**HEADER, 'alg': 'none'})}.{part(CLAIMS)}.",
    "not signed, in other letters": lambda: f"{part({**HEADER, 'alg': 'nOnE'})}.{part(CLAIMS)}.",
    "not signed, and says that it is": lambda: f"{part(HEADER)}.{part(CLAIMS)}.",
    "signed with the public key, as if that were a secret": lambda: by_hand({**HEADER, "alg": "HS256"}),
    "signed with a key of its own, which it brings along": lambda: token(EVES, {"jwk": EVES.as_dict(private=False)}),
    "signed by somebody else under our key's name": lambda: token(EVES),
    "signed with another of our keys, in another way": lambda: token(RSA, {"alg": "RS256", "kid": RSA.kid}),
    "names another of our keys": lambda: token(header={"kid": RSA.kid}),
    "names nobody's key": lambda: token(header={"kid": "nobody's"}),
    "names no key": lambda: token(header={"kid": None}),
    "names a number": lambda: f"{part({**HEADER, 'kid': 7})}.{'.'.join(GOOD.split('.')[1:])}",
    "is an ID token": lambda: token(header={"typ": "JWT"}),
    "does not say what it is": lambda: token(header={"typ": None}),
    "wants something understood that is not": lambda: (
        f"{part({**HEADER, 'crit': ['x'], 'x': 1})}.{'.'.join(GOOD.split('.')[1:])}"
    ),
    "says another role, under the old signature": lambda: (
        f"{GOOD.split('.')[0]}.{part({**CLAIMS, 'role': 'admin'})}.{GOOD.split('.')[2]}"
    ),
    "has a bit flipped": lambda: GOOD[:-10] + ("A" if GOOD[-10] != "A" else "B") + GOOD[-9:],
    "has something behind it": lambda: f"{GOOD}.x",
    "has ended": lambda: token(exp=NOW - 60),
    "does not end": lambda: token(exp=None),
    "ends at no time": lambda: token(exp="soon"),
    "begins later": lambda: token(iat=NOW + DAY),
    "is not good yet": lambda: token(nbf=NOW + DAY),
    "is for somebody else": lambda: token(aud="shop.example"),
    "is for nobody": lambda: token(aud=None),
    "is of another issuer": lambda: token(iss=f"{ISSUER}.evil.example"),
    "is of a longer issuer": lambda: token(iss=f"{ISSUER}/"),
    "is of no issuer": lambda: token(iss=None),
    "is about nobody": lambda: token(sub=None),
    "is about a list": lambda: token(sub=["ann"]),
    "has no role": lambda: token(role=None),
    "has a role that there is not": lambda: token(role="root"),
    "has no scope": lambda: token(scope=None),
    "has a list of scopes": lambda: token(scope=["cart"]),
    "says no claims": lambda: signed(KEY, b"[]"),
    "is no JSON": lambda: signed(KEY, b"{"),
    "is too long": lambda: token(sub="x" * 5000),
    "is deeper than one can read": lambda: f"{part(b'[' * 2900)}.e30.x",
    "is in letters of another country": lambda: GOOD.replace("e", "é", 1),
}


async def test_a_token_of_users_says_who_that_is_and_what_it_is_good_for() -> None:
    users = Users(RSA, KEY)
    subject = await users.gateway().verified(GOOD)
    assert (subject.id, subject.role, subject.scopes) == ("ann", Role.CUSTOMER, {"cart", "orders:read"})
    await users.gateway().verified(token(exp=int(time.time()) - 1))  # a clock that is a second ahead


@pytest.mark.parametrize("what", FORGED)
async def test_what_is_forged_is_refused(what: str) -> None:
    keys = Users(KEY, RSA).gateway()
    await keys.learn()
    forged = FORGED[what]()
    with pytest.raises(BadToken) as found:
        await keys.verified(forged)
    assert not forged or forged not in str(found.value)
    await keys.verified(GOOD)


async def test_an_unknown_key_is_asked_for_and_not_by_everybody_who_makes_one_up() -> None:
    users = Users(KEY)
    keys = users.gateway()
    await keys.verified(GOOD)
    await keys.verified(GOOD)
    assert users.asked == 1
    new = ECKey.generate_key("P-256", {"alg": "ES256"}, auto_kid=True)
    users.keys.append(new)
    fresh = token(new, {"kid": new.kid})
    users.now += AGAIN / 2
    for _ in range(20):
        with pytest.raises(BadToken):
            await keys.verified(token(EVES, {"kid": "made-up"}))
    assert users.asked == 1
    users.now += AGAIN / 2
    assert (await keys.verified(fresh)).id == "ann"
    assert users.asked == 2


async def test_while_users_does_not_answer_known_keys_are_good_and_nobody_is_called_a_liar() -> None:
    users = Users(KEY)
    keys = users.gateway()
    await keys.verified(GOOD)
    users.gone = True
    users.now += AGAIN
    new = ECKey.generate_key("P-256", {"alg": "ES256"}, auto_kid=True)
    for _ in range(3):
        with pytest.raises(NotKnownYet):
            await keys.verified(token(new, {"kid": new.kid}))
    assert users.asked == 2
    with pytest.raises(ConnectionRefusedError):
        await keys.learn()
    await keys.verified(GOOD)
    for nonsense in (b"", b"{}", b"[]", b'{"keys": []}', b'{"keys": [{"kty": "EC", "kid": "x"}]}', b"<html>"):
        users.instead = nonsense
        with pytest.raises(ConnectionError):
            await keys.learn()
    users.instead = None
    await keys.verified(GOOD)
    users.gone, users.now = False, users.now + AGAIN
    users.keys.append(new)
    await keys.verified(token(new, {"kid": new.kid}))


async def test_a_key_that_is_withdrawn_is_good_for_nothing_from_the_next_look_on() -> None:
    users = Users(KEY)
    keys = users.gateway()
    await keys.verified(GOOD)
    users.keys = [RSA, ECKey.generate_key("P-256", {"alg": "ES256"}, auto_kid=True)]
    await keys.learn()
    with pytest.raises(BadToken):
        await keys.verified(GOOD)


def test_what_is_called_good_here_is_what_another_library_calls_good() -> None:
    assert jwt.decode(GOOD, KEY, algorithms=["ES256"]).claims["sub"] == "ann"
