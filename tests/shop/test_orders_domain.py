"""What happens to an order that comes back, without anything running."""

from datetime import UTC, datetime
from itertools import permutations

import pytest

from faultline.shop.contracts import Money, OrderCancelled, OrderConfirmed, OrderLine, OrderPlaced, ReturnClosed
from faultline.shop.orders import domain
from faultline.shop.orders.domain import NotReturnable, Order, Part, Reason, Status, evolve


def an_order() -> Order:
    line = OrderLine(sku="hat", quantity=2, unit=Money(500))
    placed = OrderPlaced(order="o", user="ann", lines=(line,), total=Money(1000), key="k")
    return evolve(evolve(None, placed, datetime.now(UTC)), OrderConfirmed(order="o", user="ann"), datetime.now(UTC))


def happens(now: Order, events: list[domain.Happened]) -> Order:
    for event in events:
        now = evolve(now, event, now.placed_at)
    return now


@pytest.mark.parametrize("heard", [*permutations(Part), *permutations((Part.GOODS, Part.GOODS, Part.MONEY))])
def test_in_whatever_order_the_parts_are_heard_the_last_one_closes_it_once(heard: tuple[Part, ...]) -> None:
    now = happens(an_order(), domain.return_requested(an_order()))
    assert now.status is Status.RETURNING
    happened: list[domain.Happened] = []
    for part in heard:
        assert now.status is Status.RETURNING or part in now.returned
        events = domain.part_returned(now, part)
        now, happened = happens(now, events), happened + events
    assert now.status is Status.RETURNED
    assert len(happened) == 3, "each part once, and the end"
    assert isinstance(happened[-1], ReturnClosed)
    assert domain.part_returned(now, Part.MONEY) == domain.return_requested(now) == []


def test_money_that_goes_back_for_a_cancelled_order_is_no_return() -> None:
    placed = evolve(None, OrderPlaced(order="o", user="a", lines=(), total=Money(1), key="k"), an_order().placed_at)
    gone = evolve(placed, OrderCancelled(order="o", user="a", reason=Reason.NOT_HELD), an_order().placed_at)
    assert domain.part_returned(gone, Part.MONEY) == domain.return_stuck(gone, "gone") == []
    for one in (placed, gone):
        with pytest.raises(NotReturnable):
            domain.return_requested(one)


def test_an_order_that_comes_back_is_not_confirmed_again_nor_cancelled() -> None:
    now = happens(an_order(), domain.return_requested(an_order()))
    assert domain.confirmed(now) == []
    with pytest.raises(domain.Ended):
        domain.cancelled(now, Reason.TOO_LATE)
