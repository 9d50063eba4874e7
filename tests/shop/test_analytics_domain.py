"""The rules of analytics that need nothing to run."""

from datetime import UTC, date, datetime, timedelta

import pytest

from faultline.shop.analytics.domain import PATIENCE, SLACK, Difference, Sums, difference, over, pseudonym

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)


def sums(
    sold: int | None = 5,
    heard: int | None = 5,
    moved: int | None = 5,
    sold_ever: int | None = 5,
    heard_ever: int | None = 5,
    *,
    is_doubled: bool = False,
) -> Sums:
    return Sums(sold=sold, heard=heard, moved=moved, sold_ever=sold_ever, heard_ever=heard_ever, is_doubled=is_doubled)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (sums(), None),
        (sums(None, 0, 0, None, 0), None),
        (sums(None, 5, 5, None), Difference.MISSING),
        (sums(None, None, 5, None, None), Difference.MISSING),
        (sums(5, None, 5, 5, None), Difference.MISSING),
        (sums(5, 5, None), Difference.MISSING),
        (sums(None, -5, -5, 5, 0), Difference.MISSING),
        (sums(4, 5, 5, 4), Difference.AMOUNT),
        (sums(5, 5, 6), Difference.AMOUNT),
        (sums(None, 5, 5), Difference.LATE),
        (sums(5, None, None), Difference.LATE),
        (sums(10, 5, 5, 10, is_doubled=True), Difference.DUPLICATE),
        (sums(is_doubled=True), Difference.DUPLICATE),
    ],
)
def test_a_difference_has_one_reason(seen: Sums, expected: Difference | None) -> None:
    assert difference(seen) is expected


@pytest.mark.parametrize(
    ("orders", "payment", "now", "expected"),
    [
        (NOON, NOON, NOON, date(2026, 3, 2)),
        (MIDNIGHT + SLACK, NOON, MIDNIGHT + SLACK, date(2026, 3, 2)),
        (MIDNIGHT + SLACK - timedelta(microseconds=1), NOON, MIDNIGHT + SLACK, date(2026, 3, 1)),
        (NOON, MIDNIGHT - timedelta(days=3), MIDNIGHT + SLACK, date(2026, 3, 1)),
        (NOON, None, MIDNIGHT + PATIENCE, date(2026, 3, 2)),
        (None, None, MIDNIGHT + PATIENCE - timedelta(microseconds=1), date(2026, 3, 1)),
    ],
)
def test_a_day_is_over_when_all_have_told_of_the_next_one_or_had_long_enough(
    orders: datetime | None, payment: datetime | None, now: datetime, expected: date
) -> None:
    told = {name: moment for name, moment in (("orders", orders), ("payment", payment)) if moment}
    assert over(told, now) == expected


def test_a_pseudonym_is_the_same_each_time_and_another_by_another_key() -> None:
    assert pseudonym(b"key", "ann") == pseudonym(b"key", "ann")
    assert len({pseudonym(b"key", "ann"), pseudonym(b"key", "bob"), pseudonym(b"other", "ann")}) == 3
    assert "ann" not in pseudonym(b"key", "ann")
