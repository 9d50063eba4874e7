"""What users promises of accounts, sessions, API keys and signing keys, from outside."""

import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import ECKey
from tests.shop.conftest import Shop, opened, until
from tests.shop.people import PASSWORD, access, claims, form, log_in, person, program

from faultline.patterns import BulkheadFull
from faultline.shop import database
from faultline.shop.users import passwords
from faultline.shop.users.keys import Keys

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("users"),  # they share a shop
]
KEY_GRANT = "urn:faultline:params:oauth:grant-type:api-key"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop_(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with opened(folder, shared_broker, names=("users", "gateway")) as one:
        yield one


async def test_who_registers_has_an_account_and_others_hear_of_it_without_the_address(shop_: Shop) -> None:
    new = {"email": "Ann@Shop.example", "password": PASSWORD}
    made = await shop_.ask("users-1", "/v1/users", new)
    assert made.status == 201
    user = made.body["id"]
    assert made.body == {"id": user, "email": "ann@shop.example", "role": "customer"}
    assert made.headers["location"] == f"/v1/users/{user}"
    again = await shop_.ask("users-1", "/v1/users", {**new, "email": "ann@shop.example"})
    assert (again.status, again.body["type"]) == (409, "/problems/email-taken")
    said = await shop_.rows("users", "SELECT id, data::text FROM outbox WHERE subject = %s", user)
    assert [name for name, _ in said] == [f"users.user-registered.v1/{user}/1"]
    assert "@" not in said[0][1]
    await until(lambda: shop_.rows("users", "SELECT FROM outbox WHERE subject = %s AND sent_at IS NOT NULL", user))
    for bad in ({"email": "ann"}, {"password": "short"}, {"password": "x" * 201}, {"email": None}, {"password": None}):
        reply = await shop_.ask("users-1", "/v1/users", {**new, "email": "new@shop.example", **bad})
        assert reply.status == 422, bad
        assert "short" not in str(reply.body)


async def test_of_many_who_register_one_address_at_once_one_does(shop_: Shop) -> None:
    new = {"email": "one@shop.example", "password": PASSWORD}
    replies = await asyncio.gather(*(shop_.ask("users-1", "/v1/users", new) for _ in range(8)))
    assert Counter(reply.status for reply in replies) == {201: 1, 409: 7}


async def test_who_does_not_know_the_password_learns_nothing(shop_: Shop) -> None:
    who = await person(shop_)
    answers = [
        await shop_.ask("users-1", "/v1/sessions", {"email": email, "password": "wrong password"}, X_Request_Id="r")
        for email in (who.email, "nobody@shop.example")
    ]
    assert [reply.status for reply in answers] == [401, 401]
    assert answers[0].body == answers[1].body
    assert "set-cookie" not in answers[0].headers
    reply = await shop_.ask("users-1", "/v1/sessions", {"email": who.email.upper(), "password": PASSWORD})
    assert reply.status == 201
    for word in ("HttpOnly", "SameSite=lax", "Path=/"):
        assert word in reply.headers["set-cookie"]


async def test_who_is_logged_in_sees_where_and_logs_out_here_there_and_everywhere(shop_: Shop) -> None:
    who, other = await person(shop_), await person(shop_)
    phone, tablet = await log_in(shop_, who.email, "phone"), await log_in(shop_, who.email, "tablet")

    async def devices() -> dict[str, str]:
        listed = await shop_.ask("users-1", "/v1/sessions", X_User=who.id)
        assert phone.partition("=")[2] not in str(listed.body), "a list that opens something"
        return {one["device"]: one["handle"] for one in listed.body}

    async def is_in(cookie: str) -> bool:
        reply = await shop_.ask("users-1", "/v1/sessions/current/tokens", {}, Cookie=cookie)
        assert reply.status in {200, 401}
        return reply.status == 200

    found = await devices()
    assert set(found) == {"", "phone", "tablet"}
    theirs = f"/v1/sessions/{found['phone']}"
    assert (await shop_.ask("users-1", theirs, method="DELETE", X_User=other.id)).status == 404
    assert await is_in(phone)
    assert (await shop_.ask("users-1", theirs, method="DELETE", X_User=who.id)).status == 204
    assert (await shop_.ask("users-1", theirs, method="DELETE", X_User=who.id)).status == 404
    assert [await is_in(cookie) for cookie in (phone, tablet, who.cookie)] == [False, True, True]
    for _ in range(2):
        out = await shop_.ask("users-1", "/v1/sessions/current", method="DELETE", Cookie=tablet)
        assert out.status == 204
        assert "Max-Age=0" in out.headers["set-cookie"]
    assert [await is_in(cookie) for cookie in (phone, tablet, who.cookie)] == [False, False, True]

    partner = await program(shop_)
    tokens, code = await partner.tokens(who), await partner.code(who)
    for _ in range(2):
        assert (await shop_.ask("users-1", "/v1/sessions", method="DELETE", X_User=who.id)).status == 204
    assert not await is_in(who.cookie)
    assert (await partner.refresh(tokens["refresh_token"])).body["error"] == "invalid_grant"
    assert (await partner.redeem(*code)).body["error"] == "invalid_grant", "a code has outlived it"
    assert await is_in(other.cookie)
    assert await is_in(await log_in(shop_, who.email))


async def test_an_account_is_seen_and_erased_by_its_own_and_by_who_reaches_all(shop_: Shop) -> None:
    who, other = await person(shop_), await person(shop_)
    path = f"/v1/users/{who.id}"
    assert (await shop_.ask("users-1", path, X_User=who.id)).body["email"] == who.email
    for method in ("GET", "DELETE"):
        assert (await shop_.ask("users-1", path, method=method, X_User=other.id)).status == 404
        assert (await shop_.ask("users-1", path, method=method)).status == 422, "who asks?"
    assert (await shop_.ask("users-1", path, X_User=other.id, X_Whose="any")).status == 200

    partner = await program(shop_)
    tokens = await partner.tokens(who)
    key = (await shop_.ask("users-1", "/v1/api-keys", {"name": "k", "scopes": ["cart"]}, X_User=who.id)).body["key"]
    for _ in range(2):
        assert (await shop_.ask("users-1", path, method="DELETE", X_User=who.id)).status == 204
    assert (await shop_.ask("users-1", path, X_User=who.id)).status == 404
    assert (await shop_.ask("users-1", "/v1/sessions/current/tokens", {}, Cookie=who.cookie)).status == 401
    assert (await partner.refresh(tokens["refresh_token"])).status == 400
    assert (await form(shop_, "/v1/oauth/token", [("grant_type", KEY_GRANT), ("api_key", key)])).status == 400
    login = {"email": who.email, "password": PASSWORD}
    assert (await shop_.ask("users-1", "/v1/sessions", login)).status == 401
    said = await shop_.rows("users", "SELECT id FROM outbox WHERE subject = %s ORDER BY position", who.id)
    assert [name for (name,) in said] == [
        f"users.user-registered.v1/{who.id}/1",
        f"users.user-erased.v1/{who.id}/2",
    ]
    kept = await shop_.rows("users", "SELECT row_to_json(account)::text FROM account WHERE id = %s", who.id)
    assert who.email not in kept[0][0]
    assert (await shop_.ask("users-1", "/v1/users", login)).status == 201, "the address is free again"


async def test_a_token_says_the_role_of_the_moment_and_no_more_than_it_may(shop_: Shop) -> None:
    who = await person(shop_)
    first = claims(await access(shop_, who))
    assert (first["role"], first["sub"], first["aud"]) == ("customer", who.id, "shop")
    assert first["exp"] - first["iat"] == 300
    assert set(first["scope"].split()) == {"account", "cart", "notifications", "orders:read", "orders:write"}
    role = {"role": "admin"}
    path = f"/v1/users/{who.id}/role"
    other = await person(shop_)
    assert (await shop_.ask("users-1", path, role, method="PUT", X_User=other.id)).status == 404
    for none in ("guest", "partner", "root", "nobody"):
        reply = await shop_.ask("users-1", path, {"role": none}, method="PUT", X_User="op", X_Whose="any")
        assert reply.status == 422
    assert (await shop_.ask("users-1", path, role, method="PUT", X_User="op", X_Whose="any")).status == 200
    then = claims(await access(shop_, who))
    assert then["role"] == "admin"
    assert "users:write" in then["scope"].split()
    assert then["jti"] != first["jti"]


async def test_an_api_key_is_shown_once_acts_for_its_owner_and_can_be_revoked(shop_: Shop) -> None:
    who, other = await person(shop_), await person(shop_)
    made = await shop_.ask("users-1", "/v1/api-keys", {"name": "till", "scopes": ["orders:read"]}, X_User=who.id)
    assert made.status == 201
    key, public = made.body["key"], made.body["id"]
    assert key.startswith(f"{public}_")
    rows = await shop_.rows("users", "SELECT row_to_json(api_key)::text FROM api_key WHERE id = %s", public)
    assert key.rpartition("_")[2] not in rows[0][0]
    (listed,) = (await shop_.ask("users-1", "/v1/api-keys", X_User=who.id)).body
    assert (listed["id"], listed["used_at"]) == (public, None)
    assert key not in str(listed)

    async def use(shown: str) -> int:
        reply = await form(shop_, "/v1/oauth/token", [("grant_type", KEY_GRANT), ("api_key", shown)])
        if reply.status == 200:
            told = claims(reply.body["access_token"])
            assert (told["sub"], told["scope"], told["client_id"]) == (who.id, "orders:read", public)
            assert "refresh_token" not in reply.body
        return reply.status

    flipped = key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1]
    assert [await use(shown) for shown in (key, flipped, public, f"{key} ", "", "fk_x")] == [200] + [400] * 5
    (listed,) = (await shop_.ask("users-1", "/v1/api-keys", X_User=who.id)).body
    assert listed["used_at"]
    for scopes in (["account"], ["users:write"], ["products:write"], ["orders:read", "stock:write"], [], ["*"]):
        reply = await shop_.ask("users-1", "/v1/api-keys", {"name": "x", "scopes": scopes}, X_User=who.id)
        assert reply.status == 422, scopes
    path = f"/v1/api-keys/{public}"
    assert (await shop_.ask("users-1", path, method="DELETE", X_User=other.id)).status == 404
    assert await use(key) == 200
    for _ in range(2):
        assert (await shop_.ask("users-1", path, method="DELETE", X_User=who.id)).status == 204
    assert await use(key) == 400
    assert (await shop_.ask("users-1", "/v1/api-keys", X_User=who.id)).body == []


async def test_a_token_is_signed_by_a_published_key_and_a_new_key_signs_when_the_old_one_may_not(shop_: Shop) -> None:
    who = await person(shop_)

    async def published() -> dict[str, Any]:
        found = (await shop_.ask("users-1", "/v1/oauth/jwks")).body["keys"]
        assert all("d" not in key for key in found), "a private key is public"
        return {key["kid"]: key for key in found}

    async def signed() -> str:
        token = jwt.decode(
            value := await access(shop_, who), lambda guest: by(guest.headers()["kid"]), algorithms=["ES256"]
        )
        assert token.header["typ"] == "at+jwt"
        assert value.count(".") == 2
        return str(token.header["kid"])

    def by(kid: str) -> ECKey:
        return ECKey.import_key(keys[kid])

    keys = await published()
    first = await signed()
    wrong = ECKey.generate_key("P-256")
    with pytest.raises(BadSignatureError):
        jwt.decode(await access(shop_, who), wrong, algorithms=["ES256"])
    await shop_.run("users", "UPDATE signing_key SET signs_until = clock_timestamp()")
    token = await access(shop_, who)
    keys = await published()
    assert set(keys) > {first}
    assert jwt.decode(token, by(kid := await signed()), algorithms=["ES256"]).header["kid"] == kid != first


async def test_a_key_is_of_use_to_whoever_has_its_secret_and_the_next_one_is_announced_once(shop_: Shop) -> None:
    async def signs(keys: Keys) -> str:
        body = (await keys.signed({})).split(".")[0]
        return str(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["kid"])

    theirs = {key["kid"] for key in (await shop_.ask("users-1", "/v1/oauth/jwks")).body["keys"]}
    async with database.opened(shop_.postgres.url, "users") as pool:
        mine = Keys(pool, "not the secret of the service", issuer="x")
        first = await signs(mine)
        assert first not in theirs, "a key that is sealed with another secret has signed"
        assert theirs | {first} <= {key["kid"] for key in await mine.published()}
        end = "UPDATE signing_key SET signs_until = clock_timestamp() + interval '200 s' WHERE seal = %s"
        await shop_.run("users", end, mine.seal)
        await asyncio.gather(*(mine.ensure() for _ in range(4)))
        count = "SELECT count(*) FROM signing_key WHERE seal = %s AND signs_from > clock_timestamp()"
        assert await shop_.rows("users", count, mine.seal) == [(1,)]
        assert len(await mine.published()) >= len(theirs) + 2
        assert await signs(mine) == first, "the next one signs before it was announced for long enough"


async def test_passwords_are_hashed_beside_the_loop_two_at_once_and_who_is_too_many_is_told(shop_: Shop) -> None:
    most, turns, over = 0, 0, asyncio.Event()

    async def watch() -> None:
        nonlocal most, turns
        while not over.is_set():
            turns += 1
            most = max(most, sum(thread.name.startswith("password") for thread in threading.enumerate()))
            await asyncio.sleep(0)

    async with passwords.Passwords() as one:
        watching = asyncio.create_task(watch())
        wanted = passwords.AT_ONCE + passwords.QUEUE + 5
        found = await asyncio.gather(*(one.hashed("a password") for _ in range(wanted)), return_exceptions=True)
        over.set()
        await watching
        made = [text for text in found if isinstance(text, str)]
        assert len(set(made)) == len(made), "without salt"
        assert all(text.startswith("$argon2id$v=19$m=19456,t=2,p=1$") for text in made)
        assert sum(isinstance(text, BulkheadFull) for text in found) >= 5
        assert most <= passwords.AT_ONCE
        assert turns > 100, "the loop stood still"
        assert await one.fits("a password", made[0])
        assert not await one.fits("another one", made[0])
        assert not await one.fits("a password that nobody has", None)


async def test_nothing_that_opens_anything_is_in_a_log_or_the_database(shop_: Shop) -> None:
    who = await person(shop_)
    partner = await program(shop_, keeps_secrets=True)
    code, verifier = await partner.code(who)
    tokens = (await partner.redeem(code, verifier)).body
    following = (await partner.refresh(tokens["refresh_token"])).body
    made = (await shop_.ask("users-1", "/v1/api-keys", {"name": "x", "scopes": ["cart"]}, X_User=who.id)).body
    secrets = [
        PASSWORD,
        who.cookie.partition("=")[2].rpartition(".")[2],
        code,
        verifier,
        partner.secret,
        tokens["access_token"],
        tokens["refresh_token"],
        following["refresh_token"],
        made["key"].rpartition("_")[2],
    ]
    logged = "".join(file.read_text() for file in shop_.services.folder.glob("*.log"))
    assert who.id in logged or "/v1/oauth/token" in logged, "nothing is logged at all"
    tables = await shop_.rows("users", "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    kept = ""
    for (table,) in tables:
        kept += str(await shop_.rows("users", f"SELECT row_to_json({table})::text FROM {table}"))
    assert who.id in kept
    for secret in secrets:
        assert secret
        assert secret not in logged
        assert secret not in kept
