"""The rules of the gateway."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultline.components import Clone
from faultline.shop.contracts import Role, Scope
from faultline.shop.gateway.domain import (
    HOP_BY_HOP,
    IN_A_ROW,
    LEFT_OUT,
    Ambiguous,
    Forbidden,
    Needs,
    Repeat,
    Replica,
    Route,
    Subject,
    Table,
    Unknown,
    Whose,
    allowed,
    chosen,
    given_back,
    guest,
    passed_on,
)
from faultline.shop.gateway.policy import DOCUMENT, page
from faultline.shop.gateway.routes import PUBLIC, ROUTES
from faultline.shop.topology import EDGES, Style

PLAIN, THEIRS = ["accept", "x-a", "x-b"], ["te", "upgrade", "x-forwarded-for", "host", "x-user", "x-guest"]
NAMES = st.sampled_from(["connection", *PLAIN, *THEIRS])
PAIRS = st.lists(st.tuples(NAMES, st.sampled_from(["x-a", "close, X-B", "1", "x-user,te", ""])), max_size=8)


def test_what_is_listed_leads_where_an_edge_is_drawn() -> None:
    drawn = {edge.callee for edge in EDGES if edge.caller == "gateway" and edge.style is Style.HTTP}
    assert {route.service for route in ROUTES} == drawn | {"gateway"}
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert all(route.repeat is Repeat.ALWAYS for route in ROUTES if route.method == "GET")
    assert {route.method for route in ROUTES if route.repeat is Repeat.ALWAYS} == {"GET"}


@given(PAIRS)
def test_what_a_hop_has_named_and_what_is_the_gateways_does_not_pass(pairs: list[tuple[str, str]]) -> None:
    headers = [(name.title().encode(), value.encode()) for name, value in pairs]
    named = {one.strip().lower() for name, value in pairs if name == "connection" for one in value.split(",")}
    back = [name.decode() for name, _ in given_back(headers)]
    assert not ({name.decode() for name in HOP_BY_HOP} | named) & set(back)
    try:
        passed = [name.decode() for name, _ in passed_on(headers)]
    except Ambiguous:
        assert sum(name == "x-guest" for name, _ in pairs) > 1
        return
    assert not {"host", "x-forwarded-for", "x-user", "x-guest", *named} & set(passed)
    kept = [name for name, _ in pairs if name in {"accept", "x-a", "x-b"} - named]
    assert [name for name in passed if name in {"accept", "x-a", "x-b"}] == kept


@given(st.text(alphabet="/ab.%2fx{}v1-", max_size=20))
def test_a_part_of_a_path_is_a_name_and_nothing_that_could_be_read_otherwise(rest: str) -> None:
    table = Table([Route("GET", "/v1/{x}", "s", 1.0, Repeat.ALWAYS, PUBLIC)])
    route, _ = table.find("GET", f"/api/v1/{rest}")
    assert (route is not None) == bool(rest and not set(rest) & set("/.%{}"))


def test_of_two_the_one_with_less_to_do_is_asked_and_whoever_fails_is_left_out() -> None:
    chance = random.Random(7)
    busy, idle, third = replicas = [Replica("busy", in_flight=9), Replica("idle"), Replica("third", in_flight=5)]

    def often(*avoid: Replica, now: float = 0.0) -> Counter[str]:
        picks = (chosen(replicas, now=now, avoid=avoid, random=chance.random) for _ in range(600))
        return Counter(one.address for one in picks)

    assert often()["busy"] == 0
    assert often().keys() == {"idle", "third"}, "not all go to the same one"
    assert often(idle).keys() == {"third"}
    for _ in range(IN_A_ROW - 1):
        idle.failed(0.0)
    assert often()["idle"], "once is no rule"
    idle.failed(0.0)
    assert often(now=LEFT_OUT / 2).keys() == {"third"}
    assert often(now=LEFT_OUT)["idle"]
    idle.failed(LEFT_OUT)
    assert not often(now=LEFT_OUT * 1.5)["idle"], "after its time it has to do better the first time"
    for one in (busy, third):
        for _ in range(IN_A_ROW):
            one.failed(LEFT_OUT)
    assert often(now=LEFT_OUT * 1.5), "none is left: better any than none"
    idle.answered()
    assert idle.failures == 0


def test_who_says_twice_who_they_are_is_not_believed() -> None:
    with pytest.raises(Ambiguous):
        passed_on([(b"X-Guest", b"ann"), (b"x-guest", b"ann")])
    with pytest.raises(Ambiguous):
        passed_on([(b"Authorization", b"Bearer a"), (b"authorization", b"Bearer b")])
    sent = [(b"X-User", b"eve"), (b"X-Whose", b"any"), (b"X-Guest-User", b"eve"), (b"Cookie", b"c"), (b"x-guest", b"g")]
    assert passed_on(sent) == []
    assert passed_on(sent, drop=frozenset({b"x-guest"})) == [(b"cookie", b"c")]


def test_who_may_is_who_is_in_the_table_with_a_token_that_is_good_for_it() -> None:
    needs = Needs(Scope.ORDERS_READ, {Role.GUEST: Whose.OWN, Role.CUSTOMER: Whose.OWN, Role.SUPPORT: Whose.ANY})

    def subject(role: Role, *scopes: str) -> Subject:
        return Subject(id="x", role=role, scopes=frozenset(scopes))

    assert allowed(Subject(id="g", role=Role.GUEST), needs) is Whose.OWN
    assert allowed(subject(Role.CUSTOMER, "cart", "orders:read"), needs) is Whose.OWN
    assert allowed(subject(Role.SUPPORT, "orders:read"), needs) is Whose.ANY
    for role in Role:
        assert allowed(Subject(id="", role=role), PUBLIC) is Whose.ANY
    for refused in (
        subject(Role.CUSTOMER),
        subject(Role.CUSTOMER, "orders:write", "orders", "orders:read:all"),
        subject(Role.ADMIN, "orders:read"),
        subject(Role.PARTNER, "orders:read"),
    ):
        with pytest.raises(Forbidden):
            allowed(refused, needs)
    with pytest.raises(Unknown):
        allowed(Subject(id="", role=Role.NOBODY), needs)


def test_a_guest_is_who_has_a_secret_that_nobody_guesses_and_its_name_is_another() -> None:
    one = guest("x" * 32)
    assert one
    assert one == guest("x" * 32) != guest("y" * 32)
    assert one.role is Role.GUEST
    assert "xx" not in one.id
    for other in ("", "x" * 31, "x" * 129, "x" * 31 + "!", "x" * 32 + "\n", "é" * 32):
        assert guest(other) is None


def test_the_page_of_who_may_what_is_the_tables() -> None:
    assert (Clone.here().root / DOCUMENT).read_text() == page(), (
        "write it anew: python -m faultline.shop.gateway.policy"
    )
