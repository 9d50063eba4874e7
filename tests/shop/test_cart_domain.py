"""The rules of carts."""

from hypothesis import given
from hypothesis import strategies as st

from faultline.shop.cart import domain
from faultline.shop.cart.domain import Absent, Known, Standing
from faultline.shop.contracts import Money

KNOWN = st.builds(
    Known,
    name=st.just("x"),
    unit=st.builds(Money, st.integers(1, 10**6), st.sampled_from(["EUR", "USD"])),
    version=st.integers(1, 9),
    age=st.floats(0, 200),
    retired=st.booleans(),
)


@given(
    st.dictionaries(st.sampled_from("abcde"), st.tuples(st.integers(1, 1000), st.none() | st.builds(Absent) | KNOWN))
)
def test_a_total_is_the_sum_of_all_that_can_be_bought_or_there_is_none(
    cart: dict[str, tuple[int, domain.Found]],
) -> None:
    lines = domain.shown({sku: one[0] for sku, one in cart.items()}, {sku: one[1] for sku, one in cart.items()})
    assert [line.sku for line in lines] == sorted(cart)
    bought = [one for one in cart.values() if domain.sellable(one[1])]
    total = domain.total(lines)
    if total is None:
        currencies = {found.unit.currency for _, found in bought if isinstance(found, Known)}
        assert len(currencies) > 1 or any(found is None for _, found in bought)
    else:
        assert total.cents == sum(found.unit.cents * n for n, found in bought if isinstance(found, Known))
    for line in lines:
        assert line.standing is not Standing.LAST_KNOWN or (line.age or 0) >= domain.FRESH
