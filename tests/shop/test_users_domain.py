"""The rules of what opens an account, and what a password costs, without any server."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from faultline.shop.contracts import FIRST_HAND, Role, Scope
from faultline.shop.users import domain
from faultline.shop.users.domain import Client, Code, Family, Refresh, Refused, Reused, Turn

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
VERIFIER = "v" * 43
CLIENT = Client(
    id="c",
    name="c",
    secret=None,
    redirect_uris=("https://partner.example/back", "http://127.0.0.1:3000/back?x=1"),
    scopes=frozenset({Scope.ORDERS_READ}),
)


def code(*, family: str | None = None, age: timedelta = SECOND) -> Code:
    return Code(
        client="c",
        user="u",
        redirect_uri="https://partner.example/back",
        scopes=frozenset({Scope.ORDERS_READ}),
        challenge=domain.challenged(VERIFIER),
        expires_at=NOW + domain.CODE - age,
        family=family,
    )


def redeemed(found: Code | None, **other: str) -> Code:
    shown = {"client": "c", "redirect_uri": "https://partner.example/back", "verifier": VERIFIER, **other}
    return domain.redeemed(
        found, client=shown["client"], redirect_uri=shown["redirect_uri"], verifier=shown["verifier"], now=NOW
    )


def test_a_challenge_is_what_rfc_7636_says() -> None:
    assert domain.challenged("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == (
        "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )


def test_a_code_is_good_once_for_whoever_has_its_verifier() -> None:
    assert redeemed(code()).user == "u"
    for other in (
        {"client": "d"},
        {"redirect_uri": "https://partner.example/back/"},
        {"verifier": "w" * 43},
        {"verifier": "v" * 42},
        {"verifier": ""},
        {"verifier": domain.challenged(VERIFIER)},
    ):
        with pytest.raises(Refused):
            redeemed(code(), **other)
    with pytest.raises(Refused):
        redeemed(None)
    with pytest.raises(Refused, match="expired"):
        redeemed(code(age=domain.CODE))
    with pytest.raises(Reused):
        redeemed(code(family="f"))
    with pytest.raises(Refused) as found:
        redeemed(code(family="f"), client="d")
    assert not isinstance(found.value, Reused), "another client ends what is none of its own"


@pytest.mark.parametrize(
    "uri",
    [
        "https://partner.example/back/",
        "https://partner.example/back?x=1",
        "https://partner.example/back#x",
        "https://partner.example/bac",
        "https://partner.example/../back",
        "https://partner.example:443/back",
        "https://PARTNER.example/back",
        "https://partner.example.evil.example/back",
        "https://evil.example/https://partner.example/back",
        "http://partner.example/back",
        "http://127.0.0.1:3001/back?x=1",
        "",
    ],
)
def test_where_an_answer_may_go_is_compared_as_a_whole(uri: str) -> None:
    with pytest.raises(Refused):
        domain.asked(CLIENT, uri, "")
    assert domain.asked(CLIENT, CLIENT.redirect_uris[1], "s").state == "s"
    with pytest.raises(Refused):
        domain.asked(None, CLIENT.redirect_uris[0], "")


@pytest.mark.parametrize(
    "uri",
    [
        "http://partner.example/back",
        "https://partner.example/#",
        "https://u:p@partner.example/",
        "javascript:alert(1)",
        "https:///back",
        "https://partner.example/a b",
        "https://partner.example/\n",
        "/back",
        "http://127.0.0.1.evil.example/",
        "https://[::1",
    ],
)
def test_a_client_is_not_led_to_anywhere(uri: str) -> None:
    with pytest.raises(Refused):
        domain.redirect_uri(uri)


def family(*, ends: timedelta = domain.ABSOLUTE, is_revoked: bool = False) -> Family:
    return Family(id="f", user="u", client="c", scopes=frozenset(), ends_at=NOW + ends, is_revoked=is_revoked)


def shown(number: int, newest: int, *, used: timedelta | None = None, ends: timedelta = domain.IDLE) -> Refresh:
    return Refresh(number=number, newest=newest, expires_at=NOW + ends, used_at=None if used is None else NOW - used)


def test_a_refresh_token_gives_the_next_one_once_and_the_same_again_for_a_lost_reply() -> None:
    def turned(token: Refresh, of: Family | None = None, client: str = "c") -> Turn:
        return domain.turned(token, of or family(), client=client, now=NOW)

    assert turned(shown(2, 2)) is Turn.NEXT
    assert turned(shown(2, 3, used=0 * SECOND)) is turned(shown(2, 3, used=9 * SECOND)) is Turn.AGAIN
    for token in (
        shown(2, 3, used=domain.GRACE),  # too late for a lost reply
        shown(2, 4, used=SECOND),  # the next one was used: whoever did that has had the reply
        shown(2, 3, used=-SECOND),  # a clock that was set back gives nobody more time
    ):
        with pytest.raises(Reused):
            turned(token)
    for token, of in (
        (shown(2, 2, ends=0 * SECOND), family()),
        (shown(2, 2), family(ends=0 * SECOND)),
        (shown(2, 2), family(is_revoked=True)),
        (shown(2, 3, used=SECOND), family(is_revoked=True)),
    ):
        with pytest.raises(Refused):
            turned(token, of)
    with pytest.raises(Refused):
        turned(shown(2, 2), client="d")


def test_the_next_token_follows_from_the_one_before_and_from_a_secret() -> None:
    one = domain.following("s", "rt_1")
    assert one == domain.following("s", "rt_1")
    assert len({one, domain.following("t", "rt_1"), domain.following("s", "rt_2"), domain.following("s", one)}) == 4


def test_scopes_are_whole_words_of_what_may_be_had() -> None:
    within = frozenset({Scope.ORDERS_READ, Scope.CART})
    assert domain.scopes("orders:read cart", within) == within
    assert domain.scopes(["cart"], within) == {Scope.CART}
    for asked in ("", " ", "orders", "orders:", "orders:read ", "*", "orders:*", "ORDERS:READ", "cart orders:write"):
        with pytest.raises(Refused):
            domain.scopes(asked, within)


def test_nobody_can_give_away_what_only_they_may_do_themselves() -> None:
    for role in domain.MAY_HAVE:
        assert not domain.delegable(role) & FIRST_HAND
    for role in (Role.SUPPORT, Role.ADMIN):  # with that they reach everybody's
        assert Scope.ORDERS_READ not in domain.delegable(role)
    allowed = {Scope.CART, Scope.NOTIFICATIONS, Scope.ORDERS_READ, Scope.ORDERS_WRITE}
    assert domain.delegable(Role.CUSTOMER) == allowed


def test_an_address_is_compared_in_small_letters() -> None:
    assert domain.address(" Ann@Shop.Example ") == "ann@shop.example"
    for none in ("", "ann", "ann@", "@x.example", "a@b", "a b@x.example", "ann@x.example\n@y.example"):
        with pytest.raises(Refused):
            domain.address(none)


def test_a_parameter_that_is_given_twice_is_given_by_two() -> None:
    assert domain.query([("a", "1"), ("b", "1")]) == {"a": "1", "b": "1"}
    with pytest.raises(Refused):
        domain.query([("a", "1"), ("a", "1")])


HASHING = """
import asyncio, psutil
from faultline.shop.users.passwords import Passwords

async def main():
    async with Passwords() as passwords:
        before = psutil.Process().memory_info().rss
        for _ in range(3):
            await asyncio.gather(*(passwords.hashed("correct horse battery") for _ in range(4)))
        print(psutil.Process().memory_info().rss - before)

asyncio.run(main())
"""


def test_what_hashing_takes_of_memory_it_gives_back() -> None:
    """In a process of its own: what another test has freed would be used again."""
    grown = int(subprocess.run([sys.executable, "-c", HASHING], check=True, capture_output=True).stdout)
    assert grown < 12 * 2**20, f"{grown:,} bytes are kept: each of two threads needs 19 MiB"
