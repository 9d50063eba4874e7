"""What the authorization server promises: to a library that nobody here has written, and to whoever means ill."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from signal import SIGKILL
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_asyncio
from authlib.integrations.requests_client import OAuth2Session
from tests.shop.conftest import Shop, opened
from tests.shop.people import BACK, BUSY, Person, Program, asked, claims, form, person, program, told

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("oauth"),  # they share a shop
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop_(shared_broker: tuple[str, int, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    folder.chmod(0o755)  # PostgreSQL runs as another user
    async with opened(folder, shared_broker, names=("users", "gateway")) as one:
        yield one


async def families(shop: Shop, partner: Program) -> list[tuple[Any, ...]]:
    """Of each: how many of its tokens are live, and why it was revoked."""
    return await shop.rows(
        "users",
        "SELECT (SELECT count(*) FROM refresh_token WHERE family_id = family.id AND used_at IS NULL), reason"
        " FROM family WHERE client_id = %s",
        partner.id,
    )


@pytest.mark.parametrize("keeps_secrets", [False, True])
async def test_a_library_that_nobody_here_has_written_gets_tokens_and_gives_them_back(
    shop_: Shop, keeps_secrets: bool
) -> None:
    who = await person(shop_)
    partner = await program(shop_, keeps_secrets=keeps_secrets)
    at = f"http://127.0.0.1:{shop_.process('gateway-1').port}"
    metadata = (await asked(shop_, "/.well-known/oauth-authorization-server")).body
    assert metadata["issuer"] == at
    method = "client_secret_basic" if keeps_secrets else "none"
    assert method in metadata["token_endpoint_auth_methods_supported"]

    library = OAuth2Session(
        partner.id,
        partner.secret,
        scope="orders:read",
        redirect_uri=BACK,
        code_challenge_method="S256",
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
    )
    with closing(library.session):
        verifier = "a-verifier-of-43-characters-and-not-any-less"
        url, state = library.create_authorization_url(metadata["authorization_endpoint"], code_verifier=verifier)
        question = urlsplit(url)
        target = f"{question.path}?{question.query}"
        assert (await asked(shop_, target)).status == 401, "who is to consent?"
        consent = await asked(shop_, target, Cookie=who.cookie)
        assert consent.body == {"client": "a partner", "scopes": ["orders:read"], "user": who.id}
        pairs = parse_qsl(question.query)
        answer = [*pairs, ("decision", "allow")]
        while (back := await form(shop_, question.path, answer, "gateway-1", Cookie=who.cookie)).status in BUSY:
            pass
        assert (back.status, told(back)["iss"], told(back)["state"]) == (303, at, state)
        token = await asyncio.to_thread(
            library.fetch_token,
            metadata["token_endpoint"],
            authorization_response=back.headers["location"],
            state=state,
            code_verifier=verifier,
        )
        said = claims(token["access_token"])
        assert (said["iss"], said["sub"], said["scope"], said["client_id"]) == (at, who.id, "orders:read", partner.id)
        assert token["expires_in"] == 300
        fresh = await asyncio.to_thread(library.refresh_token, metadata["token_endpoint"])
        assert fresh["refresh_token"] != token["refresh_token"]
        revoked = await asyncio.to_thread(
            library.revoke_token, metadata["revocation_endpoint"], fresh["refresh_token"], "refresh_token"
        )
        assert revoked.status_code == 200
    assert await families(shop_, partner) == [(1, "by its client")]
    assert (await partner.refresh(fresh["refresh_token"])).body["error"] == "invalid_grant"


async def test_a_client_that_shows_its_secret_acts_for_itself(shop_: Shop) -> None:
    machine = await program(shop_, scopes=["stock:write", "orders:read"], keeps_secrets=True)
    reply = await machine.token(grant_type="client_credentials")
    assert reply.status == 200
    said = claims(reply.body["access_token"])
    assert (said["sub"], said["role"], said["scope"]) == (machine.id, "partner", "stock:write")
    assert "refresh_token" not in reply.body
    assert reply.headers["cache-control"] == "no-store"
    for refused, fields in (
        ("invalid_client", {"client_secret": "x" * 43}),
        ("invalid_client", {"client_secret": ""}),
        ("invalid_client", {"client_id": "nobody"}),
        ("invalid_scope", {"scope": "orders:read"}),
        ("unsupported_grant_type", {"grant_type": "password"}),
    ):
        reply = await machine.token(**{"grant_type": "client_credentials", **fields})
        assert reply.body["error"] == refused, fields
    public = await program(shop_, scopes=["stock:write"])
    assert (await public.token(grant_type="client_credentials")).body["error"] == "unauthorized_client"


async def test_what_is_wrong_with_a_client_leads_nowhere_and_all_else_back_to_it(shop_: Shop) -> None:
    who, partner = await person(shop_), await program(shop_)
    for wrong in (
        {"redirect_uri": f"{BACK}/"},
        {"redirect_uri": f"{BACK}?x=1"},
        {"redirect_uri": "http://127.0.0.1:3999/back/../evil"},
        {"redirect_uri": "https://evil.example/back"},
        {"redirect_uri": None},
        {"client_id": "nobody"},
        {"client_id": None},
    ):
        reply, _ = await partner.consent(who, **wrong)
        assert (reply.status, "location" in reply.headers) == (400, False), wrong
    for error, wrong in (
        ("invalid_request", {"code_challenge": None}),
        ("invalid_request", {"code_challenge_method": None}),
        ("invalid_request", {"code_challenge_method": "plain"}),
        ("invalid_request", {"code_challenge": "too-short"}),
        ("unsupported_response_type", {"response_type": "token"}),
        ("invalid_scope", {"scope": "orders:write"}),
        ("invalid_scope", {"scope": "orders:read account"}),
        ("invalid_scope", {"scope": ""}),
        ("access_denied", {"decision": "deny"}),
        ("access_denied", {"decision": None}),
    ):
        reply, _ = await partner.consent(who, **wrong)
        assert (told(reply)["error"], told(reply)["state"]) == (error, "st ate"), wrong
        assert "code" not in told(reply)
    reply = await form(shop_, "/v1/oauth/authorize", [("client_id", partner.id)] * 2, Cookie=who.cookie)
    assert reply.status == 400
    reply = await form(shop_, "/v1/oauth/token", [("grant_type", "client_credentials")] * 2)
    assert reply.body["error"] == "invalid_request"


async def test_a_stolen_code_is_of_no_use_and_one_that_is_used_twice_ends_what_it_gave(shop_: Shop) -> None:
    who, partner, thief = await person(shop_), await program(shop_), await program(shop_)
    code, verifier = await partner.code(who)
    for reply in (
        await partner.redeem(code, "x" * 43),
        await partner.redeem(code, ""),
        await partner.redeem(code, verifier, redirect_uri=f"{BACK}/"),
        await thief.redeem(code, verifier),
    ):
        assert (reply.status, reply.body["error"]) == (400, "invalid_grant")
    tokens = await partner.redeem(code, verifier)
    assert tokens.status == 200, "who has intercepted it has used it up"
    assert (await thief.redeem(code, verifier)).status == 400
    assert await families(shop_, partner) == [(1, "")], "another client has ended it"
    assert (await partner.redeem(code, verifier)).body["error"] == "invalid_grant"
    assert await families(shop_, partner) == [(1, "code reused")]
    assert (await partner.refresh(tokens.body["refresh_token"])).body["error"] == "invalid_grant"

    late, its = await partner.code(who)
    await shop_.run("users", "UPDATE code SET expires_at = clock_timestamp() WHERE family_id IS NULL")
    assert (await partner.redeem(late, its)).body["error"] == "invalid_grant"


async def test_of_many_who_redeem_a_code_at_once_one_gets_tokens_and_they_are_revoked(shop_: Shop) -> None:
    who, partner = await person(shop_), await program(shop_)
    code, verifier = await partner.code(who)
    replies = await asyncio.gather(*(partner.redeem(code, verifier) for _ in range(8)))
    assert Counter(reply.status for reply in replies) == {200: 1, 400: 7}
    assert await families(shop_, partner) == [(1, "code reused")]


async def test_a_refresh_token_that_is_shown_after_its_successor_was_used_ends_the_family(shop_: Shop) -> None:
    who, partner = await person(shop_), await program(shop_)
    first = (await partner.tokens(who))["refresh_token"]
    second = (await partner.refresh(first)).body["refresh_token"]
    third = (await partner.refresh(second)).body["refresh_token"]
    assert len({first, second, third}) == 3
    assert await families(shop_, partner) == [(1, "")]
    thief = await program(shop_)
    assert (await thief.refresh(first)).body["error"] == "invalid_grant"
    assert await families(shop_, partner) == [(1, "")], "another client has ended it"
    assert (await partner.refresh(first)).body["error"] == "invalid_grant"
    assert await families(shop_, partner) == [(1, "token reused")]
    assert (await partner.refresh(third)).body["error"] == "invalid_grant", "a thief goes on with it"
    reused = "SELECT number FROM refresh_token JOIN family ON family.id = family_id WHERE client_id = %s"
    assert await shop_.rows("users", f"{reused} AND reused_at IS NOT NULL", partner.id) == [(1,)]


async def test_who_has_lost_a_reply_asks_again_and_gets_the_same_also_after_a_kill(shop_: Shop) -> None:
    who, partner = await person(shop_), await program(shop_)
    first = (await partner.tokens(who))["refresh_token"]
    second = (await partner.refresh(first)).body["refresh_token"]
    victim = shop_.process("users-1").pid
    assert victim
    os.kill(victim, SIGKILL)
    await shop_.again("users-1", after=victim)
    # as if no time had gone by: how long a start takes is the machine's affair
    await shop_.run(
        "users",
        "UPDATE refresh_token SET used_at = clock_timestamp() WHERE used_at IS NOT NULL AND family_id IN"
        " (SELECT id FROM family WHERE client_id = %s)",
        partner.id,
    )
    again = await partner.refresh(first)
    assert (again.status, again.body["refresh_token"]) == (200, second)
    assert await families(shop_, partner) == [(1, "")]
    assert (await partner.refresh(second)).status == 200
    assert (await partner.refresh(first)).status == 400, "its reply was not lost: its successor was used"


async def test_a_reply_that_is_asked_for_too_late_was_not_lost(shop_: Shop) -> None:
    who, partner = await person(shop_), await program(shop_)
    first = (await partner.tokens(who))["refresh_token"]
    second = (await partner.refresh(first)).body["refresh_token"]
    await shop_.run(
        "users",
        "UPDATE refresh_token SET used_at = used_at - interval '10 s' WHERE used_at IS NOT NULL AND family_id IN"
        " (SELECT id FROM family WHERE client_id = %s)",
        partner.id,
    )
    assert (await partner.refresh(first)).status == 400
    assert await families(shop_, partner) == [(1, "token reused")]
    assert (await partner.refresh(second)).status == 400


async def test_two_tabs_that_refresh_at_once_are_no_thieves(shop_: Shop) -> None:
    who, partner = await person(shop_), await program(shop_)
    token = (await partner.tokens(who))["refresh_token"]
    for _ in range(3):
        replies = await asyncio.gather(*(partner.refresh(token) for _ in range(6)))
        assert {reply.status for reply in replies} == {200}
        following = {reply.body["refresh_token"] for reply in replies}
        assert len(following) == 1, "two live tokens of one family"
        (token,) = following
    assert await families(shop_, partner) == [(1, "")]


async def test_a_consent_ends_when_it_is_not_used_and_after_90_days_anyway(shop_: Shop) -> None:
    who, partner = await person(shop_), await program(shop_)
    for change in (
        (
            "UPDATE refresh_token SET expires_at = clock_timestamp() WHERE family_id IN"
            " (SELECT id FROM family WHERE client_id = %s)"
        ),
        "UPDATE family SET ends_at = clock_timestamp() WHERE client_id = %s",
    ):
        token = (await partner.tokens(who))["refresh_token"]
        await shop_.run("users", change, partner.id)
        assert (await partner.refresh(token)).body["error"] == "invalid_grant"


async def test_a_token_is_given_back_by_its_own_client_only(shop_: Shop) -> None:
    who, partner, other = await person(shop_), await program(shop_, keeps_secrets=True), await program(shop_)
    tokens = await partner.tokens(who)

    async def revoke(by: Program, token: str, secret: str | None) -> int:
        shown = [("client_secret", secret)] if secret else []
        return (await form(shop_, "/v1/oauth/revoke", [("client_id", by.id), ("token", token), *shown])).status

    assert await revoke(other, tokens["refresh_token"], None) == 200
    assert await revoke(partner, tokens["refresh_token"], None) == 401
    assert await families(shop_, partner) == [(1, "")]
    assert await revoke(partner, tokens["access_token"], partner.secret) == 400, "it would go on for 5 minutes"
    for token in ("", "rt_nonsense", tokens["refresh_token"], tokens["refresh_token"]):
        assert await revoke(partner, token, partner.secret) == 200
    assert await families(shop_, partner) == [(1, "by its client")]


async def test_what_a_consent_is_good_for_follows_the_role_of_its_user(shop_: Shop) -> None:
    async def become(who: Person, role: str) -> None:
        path = f"/v1/users/{who.id}/role"
        reply = await shop_.ask("users-1", path, {"role": role}, method="PUT", X_User="op", X_Whose="any")
        assert reply.status == 200

    async def then(tokens: dict[str, Any]) -> tuple[str, set[str]]:
        said = claims((await partner.refresh(tokens["refresh_token"])).body["access_token"])
        return said["role"], set(said["scope"].split())

    partner = await program(shop_, scopes=["products:write", "cart", "orders:read"])
    admin, customer = await person(shop_, "admin"), await person(shop_)
    was = await partner.tokens(admin, "products:write cart")
    assert set(claims(was["access_token"])["scope"].split()) == {"products:write", "cart"}
    await become(admin, "customer")
    assert await then(was) == ("customer", {"cart"})

    was = await partner.tokens(customer, "orders:read cart")
    await become(customer, "support")
    assert await then(was) == ("support", {"cart"}), "their program reads everybody's orders"
    reply, _ = await partner.consent(customer, "orders:read")
    assert told(reply)["error"] == "invalid_scope"
