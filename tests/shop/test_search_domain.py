"""The rules of the search, without anything running: what is known, however it was heard."""

from hypothesis import given
from hypothesis import strategies as st

from faultline.shop.contracts import Money
from faultline.shop.search.domain import (
    BOUNDS,
    RANGES,
    Counted,
    Described,
    Details,
    Difference,
    Document,
    Gone,
    News,
    Priced,
    Shelf,
    choices,
    compared,
    known,
    merged,
)
from faultline.shop.search.queries import corrected, source

NOTHING = Document(sku="hat")


def described(version: int) -> Described:
    return Described(
        version, Details(name=f"hat {version}", description="", brand="b", category="c", attributes={"v": str(version)})
    )


def priced(version: int) -> Priced:
    return Priced(version, Money(100 + version))


VERSIONS = st.integers(1, 6)
PARTS: st.SearchStrategy[News] = st.one_of(VERSIONS.map(described), VERSIONS.map(priced), VERSIONS.map(Gone))


@given(st.lists(PARTS, max_size=8), st.data())
def test_news_may_come_in_any_order_and_twice(news: list[News], data: st.DataObject) -> None:
    otherwise = data.draw(st.permutations(news + data.draw(st.lists(st.sampled_from(news)) if news else st.just([]))))
    assert merged(NOTHING, otherwise) == merged(NOTHING, news)


@given(st.lists(PARTS, max_size=8))
def test_of_each_part_the_newest_is_known_and_nothing_that_is_gone_comes_back(news: list[News]) -> None:
    document = merged(NOTHING, news)
    for kind, version, part in (
        (Described, document.details_version, document.details and document.details.name),
        (Priced, document.price_version, document.price and document.price.cents),
    ):
        newest = max((one.version for one in news if isinstance(one, kind)), default=0)
        assert version == newest
        assert bool(part) == bool(newest)
    assert document.version == max((one.version for one in news if not isinstance(one, Counted)), default=0)
    gone = any(isinstance(one, Gone) for one in news)
    assert document.listed == (bool(document.details_version and document.price_version) and not gone)
    assert source(document)["listed"] == document.listed


@given(st.lists(PARTS, max_size=8), st.lists(PARTS, max_size=8))
def test_what_is_known_can_be_told_to_who_knows_less_or_more(some: list[News], others: list[News]) -> None:
    assert merged(NOTHING, known(merged(NOTHING, some))) == merged(NOTHING, some)
    assert merged(merged(NOTHING, others), known(merged(NOTHING, some))) == merged(NOTHING, some + others)


def test_a_level_replaces_the_one_before() -> None:
    assert merged(NOTHING, [Counted(3), Counted(0)]).available == 0


@given(st.integers(0, 10**9))
def test_each_price_is_in_one_range(cents: int) -> None:
    fits = [one for one in RANGES.values() if one.low <= cents and (one.high is None or cents < one.high)]
    assert len(fits) == 1
    assert fits[0].low == max(bound for bound in BOUNDS if bound <= cents)


def test_what_is_chosen_stays_to_be_taken_back() -> None:
    found = choices("brand", {"b": 2, "a": 2, "c": 3}, frozenset({"a", "none"}))
    assert [(one.value, one.count, one.chosen) for one in found] == [
        ("c", 3, False),
        ("a", 2, True),
        ("b", 2, False),
        ("none", 0, True),
    ]
    prices = choices("price", {"2500-5000": 0, "0-1000": 4, "25000-": 1}, frozenset({"1000-2500"}))
    assert [(one.value, one.count) for one in prices] == [("0-1000", 4), ("1000-2500", 0), ("25000-", 1)]


def test_how_a_document_differs_from_the_shelf() -> None:
    document = merged(NOTHING, [described(2), priced(3), Counted(5)])
    shelf = Shelf(version=3, price=Money(103), available=5)
    assert compared(document, shelf) is None
    assert compared(None, shelf) is Difference.MISSING
    assert compared(merged(NOTHING, [Counted(5)]), shelf) is Difference.MISSING
    assert compared(merged(NOTHING, [described(2), priced(2)]), shelf) is Difference.OLD
    assert compared(document, Shelf(version=3, price=Money(1), available=5)) is Difference.OLD
    assert compared(merged(document, [Gone(3)]), shelf) is Difference.OLD
    assert compared(merged(document, [priced(4)]), shelf) is Difference.AHEAD
    assert compared(document, Shelf(version=3, price=Money(103), available=4)) is Difference.STOCK
    assert compared(document, None) is Difference.SURPLUS
    assert compared(merged(document, [Gone(4)]), None) is None
    never_counted = merged(NOTHING, [described(2), priced(3)])
    assert compared(never_counted, Shelf(version=3, price=Money(103), available=0)) is None


def test_only_words_that_nothing_has_are_corrected() -> None:
    suggested = [
        {"text": "nvay", "offset": 0, "length": 4, "options": [{"text": "navy"}, {"text": "nay"}]},
        {"text": "hat", "offset": 6, "length": 3, "options": []},
        {"text": "wnter", "offset": 10, "length": 5, "options": [{"text": "winter"}]},
    ]
    assert corrected("nvay  hat wnter!", suggested) == "navy  hat winter!"
    behind = [{"text": "hta", "offset": 3, "length": 3, "options": [{"text": "hat"}]}]
    assert corrected("\N{TOP HAT} hta", behind) == "\N{TOP HAT} hat"
    assert corrected("hat", [{"text": "hat", "offset": 0, "length": 3, "options": []}]) is None
