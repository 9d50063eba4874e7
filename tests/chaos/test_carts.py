"""Which stories of one line of a cart are possible, and which are not."""

from math import inf

import pytest

from faultline.chaos.history import Operation, Outcome
from faultline.chaos.invariants.carts import explain, lines


def put(quantity: int, start: float, end: float = inf, sku: str = "hat") -> Operation:
    return operation("cart-put", {"sku": sku, "quantity": quantity}, start, end)


def see(quantity: int, start: float, end: float) -> Operation:
    return operation("cart-see", {}, start, end, lines={"hat": quantity} if quantity else {})


def buy(quantity: int, start: float, order: str = "one") -> Operation:
    return operation("place", {"key": order, "lines": {"hat": quantity}}, start, start + 0.1, id=order)


def operation(what: str, asked: dict[str, object], start: float, end: float, **told: object) -> Operation:
    outcome = Outcome.UNKNOWN if end == inf else Outcome.OK
    return Operation(client="ada", what=what, asked=asked, invoked=start, ended=end, outcome=outcome, told=told)


POSSIBLE = {
    "what was put is seen": [put(2, 0, 1), see(2, 2, 3)],
    "two touch, either first": [put(2, 0, 3), put(5, 1, 4), see(2, 5, 6), see(2, 7, 8)],
    "unknown, and it happened late": [put(2, 0, 1), put(5, 2), see(2, 3, 4), see(5, 5, 6)],
    "unknown, and it never happened": [put(2, 0, 1), put(5, 2), see(2, 3, 4)],
    "a confirmed order takes its own": [put(5, 0, 1), buy(2, 2), see(5, 3, 4), see(3, 5, 6)],
    "not what was added since": [put(2, 0, 1), buy(2, 2), put(6, 3, 4), see(4, 5, 6)],
    "a line is empty at first": [see(0, 0, 1), put(1, 2, 3), see(1, 4, 5)],
}
IMPOSSIBLE = {
    "lost": [put(2, 0, 1), see(0, 2, 3)],
    "taken by an order that was cancelled": [put(2, 0, 1), buy(2, 2, "cancelled"), see(0, 3, 4)],
    "taken twice": [put(9, 0, 1), buy(2, 2), see(7, 3, 4), see(5, 5, 6)],
    "old again": [put(2, 0, 1), put(5, 2, 3), see(5, 4, 5), see(2, 6, 7)],
    "another's": [put(2, 0, 1), see(3, 2, 3)],
    "two answers at once": [put(2, 0, 1), put(5, 1.5, 4), see(5, 2, 2.5), see(2, 3, 3.5)],
}


def explained(history: list[Operation]) -> bool | None:
    return explain(lines(history, {"one"})["ada", "hat"])


@pytest.mark.parametrize("story", POSSIBLE)
def test_what_can_have_happened_is_no_violation(story: str) -> None:
    assert explained(POSSIBLE[story])


@pytest.mark.parametrize("story", IMPOSSIBLE)
def test_what_cannot_have_happened_is_one(story: str) -> None:
    assert explained(IMPOSSIBLE[story]) is False
