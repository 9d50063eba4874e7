"""The rules of payment and of the provider's faults, without anything that runs."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultline.shop.contracts import Capture, Money, PaymentCaptured, PaymentRefunded, Refund
from faultline.shop.payment import domain
from faultline.shop.payment.domain import AskedOtherwise, Move, Moved, Payment, State
from faultline.shop.provider.domain import Behaviour, Fault, Misbehaviour, strikes

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PRICE = Money(500)
CAPTURE = Capture(order="a", amount=PRICE, until=NOON)
REFUND = Refund(order="a", amount=PRICE, reason="")
DONE = Moved(amount=PRICE, reference="r")
NOT_DONE = Moved(amount=PRICE, reference="r", code="declined")
STEPS = ("capture", "refund", "begin", "begin late", "charged", "declined", "given back", "kept")
AFTER = {
    None: {State.PENDING, State.DECLINED},
    State.PENDING: {State.PENDING, State.CAPTURED, State.DECLINED},
    State.CAPTURED: {State.CAPTURED, State.REFUNDED},
    State.DECLINED: {State.DECLINED},
    State.REFUNDED: {State.REFUNDED},
}


def after(step: str, found: Payment | None) -> Payment | None:
    match step:
        case "capture":
            return domain.capturing(found, CAPTURE)
        case "refund":
            return domain.refunding(found, REFUND)
        case _ if found is None:
            return None
        case "begin":
            return domain.begun(found, NOON - timedelta(seconds=1))
        case "begin late":
            return domain.begun(found, NOON)
        case "charged" | "declined":
            return domain.settled(found, Move.CAPTURE, DONE if step == "charged" else NOT_DONE)
        case _:
            return domain.settled(found, Move.REFUND, DONE if step == "given back" else NOT_DONE)


@given(st.lists(st.sampled_from(STEPS), max_size=14))
def test_whatever_comes_in_whatever_order_each_is_answered_once(steps: list[str]) -> None:
    now: Payment | None = None
    events: list[object] = []
    replies: list[str] = []
    for step in steps:
        before, now = now, after(step, now)
        if now is None:
            continue
        assert now.state in AFTER[before.state if before else None]
        assert now == before or now.version > (before.version if before else 0) or now.begun
        if before and before.state is State.PENDING and before.begun and now.state is not State.PENDING:
            assert step in {"charged", "declined"}, "what may have been charged is resolved by the provider alone"
        events += domain.events(before, now)
        replies += [reply.type for reply in domain.replies(before, now)]
        assert after(step, now) == now or step.startswith("begin"), "the same again changes nothing"
    assert len(set(replies)) == len(replies)
    assert len({type(event) for event in events}) == len(events)
    if now:
        assert ("payment.capture-replied.v1" in replies) == now.capture_is_answered
        assert ("payment.refund-replied.v1" in replies) == now.refund_is_answered
        moved = [type(event) for event in events if isinstance(event, PaymentCaptured | PaymentRefunded)]
        assert moved == {
            State.CAPTURED: [PaymentCaptured],
            State.REFUNDED: [PaymentCaptured, PaymentRefunded],
        }.get(now.state, [])


def test_an_amount_that_contradicts_an_earlier_one_is_refused() -> None:
    found = domain.capturing(None, CAPTURE)
    with pytest.raises(AskedOtherwise):
        domain.capturing(found, Capture(order="a", amount=Money(501), until=NOON))
    with pytest.raises(AskedOtherwise):
        domain.refunding(found, Refund(order="a", amount=Money(500, "USD"), reason=""))


@given(st.text(min_size=1), st.sampled_from(Move))
def test_a_key_names_its_order_and_its_move(order: str, move: Move) -> None:
    assert domain.moved(domain.key(order, move)) == (order, move)


@pytest.mark.parametrize("key", ["", "a", "a:", ":capture", "a:charge"])
def test_other_keys_are_not_ours(key: str) -> None:
    assert domain.moved(key) is None


@pytest.mark.parametrize("move", Move)
def test_the_entries_of_a_move_sum_to_zero(move: Move) -> None:
    assert sum(domain.entries(move, PRICE).values()) == 0


def test_a_fault_strikes_the_next_so_many_then_by_chance_and_always_the_same_ones() -> None:
    behaviour: Behaviour = {
        Fault.GONE: Misbehaviour(next=2, share=0.3, seed=7),
        Fault.SLOW: Misbehaviour(share=1.0, seconds=2.5),
    }

    def run() -> list[bool]:
        now, seen = behaviour, []
        for _ in range(1000):
            struck, now = strikes(now, frozenset({Fault.GONE}))
            seen.append(Fault.GONE in struck)
        return seen

    seen = run()
    assert seen[:2] == [True, True]
    assert seen == run()
    assert 240 < sum(seen[2:]) < 360
    struck, _ = strikes(behaviour, frozenset(Fault))
    assert struck.seconds(Fault.SLOW) == 2.5
    assert struck.seconds(Fault.LATE) == 0
