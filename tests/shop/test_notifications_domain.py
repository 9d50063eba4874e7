"""What people are told: every template, and every reason, in words."""

import pytest

from faultline.shop.contracts import (
    Line,
    Money,
    OrderCancelled,
    OrderConfirmed,
    OrderLine,
    OrderPlaced,
    PaymentRefunded,
    PaymentRefundFailed,
    ReturnClosed,
    ReturnRequested,
    UserErased,
    UserRegistered,
)
from faultline.shop.notifications import domain, events
from faultline.shop.orders.domain import Reason

ORDER = "0d4f8a6e-1111-2222-3333-444444444444"
LINES = (OrderLine(sku="hat", quantity=1, unit=Money(500)), OrderLine(sku="tea", quantity=2, unit=Money(350)))


@pytest.mark.parametrize(
    ("event", "template", "title", "text"),
    [
        (
            UserRegistered(user="ann", email_hash="x", role="customer"),
            "user-registered",
            "Welcome",
            "Your account is there.",
        ),
        (
            OrderPlaced(order=ORDER, user="ann", lines=LINES, total=Money(120_050), key="k"),
            "order-placed",
            "Order 0d4f8a6e is placed",
            "3 items for 1,200.50 EUR.",
        ),
        (
            OrderPlaced(order="o-1", user="ann", lines=LINES[:1], total=Money(5, "USD"), key="k"),
            "order-placed",
            "Order o-1 is placed",
            "1 item for 0.05 USD.",
        ),
        (OrderConfirmed(order=ORDER, user="ann"), "order-confirmed", "Order 0d4f8a6e is confirmed", "It is paid"),
        (
            ReturnRequested(order=ORDER, user="ann", lines=(Line("hat", 1),), total=Money(1999)),
            "return-requested",
            "Order 0d4f8a6e goes back",
            "We take it back. 19.99 EUR",
        ),
        (ReturnClosed(order=ORDER, user="ann"), "return-closed", "Order 0d4f8a6e is returned", "The goods are back"),
        (
            PaymentRefunded(order=ORDER, amount=Money(1999), reference="r", transaction="t"),
            "refunded",
            "Order 0d4f8a6e is refunded",
            "19.99 EUR were given back",
        ),
        (
            PaymentRefundFailed(order=ORDER, code="account-closed"),
            "refund-failed",
            "Order 0d4f8a6e is not refunded yet",
            "Your money could not be given back yet.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_event_is_told_in_words(event: domain.Told, template: str, title: str, text: str) -> None:
    notice = domain.notice(event)
    assert (notice.template, notice.title) == (template, title)
    assert notice.text.startswith(text)
    assert notice.about in {"ann", ORDER, "o-1"}


def test_everything_that_is_heard_has_its_words() -> None:
    assert {one.type for one in domain.TEMPLATES} == {*events.HEARS} - {UserErased.type}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_is_one_that_a_person_understands(reason: str) -> None:
    text = domain.notice(OrderCancelled(order=ORDER, user="ann", reason=reason)).text
    assert reason in domain.WHY
    assert text.startswith(domain.WHY[reason])
    assert ("goes back to you" in text) == (reason == Reason.NOT_HELD), "who has paid is told so"


def test_a_reason_of_tomorrow_is_no_word_of_ours() -> None:
    text = domain.notice(OrderCancelled(order=ORDER, user="ann", reason="blue-moon")).text
    assert text == "We could not carry it out. What you have paid, if anything, goes back to you."


def test_an_id_is_the_same_for_one_event_and_recipient_and_for_no_other() -> None:
    ids = {domain.named(event, user) for event in ("a/1", "a/2") for user in ("ann", "bob")}
    assert len(ids) == 4
    assert domain.named("a/1", "ann") in ids
