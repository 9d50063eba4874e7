"""The star schema follows from which events there were: not from their order, how often they came, or who was killed.

All on one PostgreSQL server and in one database, emptied between two runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from tests.shop import story
from tests.shop.story import at, day

from faultline.components import Supervisor
from faultline.patterns import Event
from faultline.shop import analytics, database
from faultline.shop.analytics import star
from faultline.shop.analytics.backfill import build
from faultline.shop.analytics.domain import By, pseudonym
from faultline.shop.analytics.events import kept
from faultline.shop.analytics.store import Reports, Staging
from faultline.shop.contracts.envelope import understood

pytestmark = [pytest.mark.once, pytest.mark.timeout(300), pytest.mark.xdist_group("star")]

T = TypeVar("T")
MIGRATIONS = Path(analytics.__path__[0]) / "migrations"
EMPTY = """
TRUNCATE staged, erased, fact_sales, fact_returns, fact_payments, dim_date, dim_product, dim_customer, watermark, day,
    reopening RESTART IDENTITY;
INSERT INTO dim_customer VALUES ('erased', 'erased', NULL)
"""
LATER = at(20)


@dataclass(slots=True)
class Warehouse:
    """The database, and the loop that it is used from."""

    runner: asyncio.Runner
    pool: AsyncConnectionPool
    staging: Staging
    loader: star.Loader
    now: datetime = LATER

    def run(self, work: Awaitable[T]) -> T:
        async def waited() -> T:
            return await work

        return self.runner.run(waited())

    async def hear(self, *events: Event) -> None:
        key = await self.staging.key()
        async with self.pool.connection() as tx, tx.transaction():
            await self.staging.put(tx, [kept(understood(event), key) for event in events])

    async def load(self, limit: int = star.AT_ONCE) -> None:
        while await self.loader.run_once(self.now, limit=limit):
            pass

    async def told(self, *events: Event) -> None:
        """One after the other, each loaded before the next one comes."""
        for event in events:
            await self.hear(event)
            await self.load()

    async def build(self, number: int) -> None:
        async with star.held(self.pool) as tx:
            await build(tx, day(number), "backfill", self.now)

    async def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()

    async def change(self, statement: str) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(statement.encode())

    async def whole(self) -> dict[str, Any]:
        """All that follows from the events."""
        async with self.pool.connection() as connection:
            found: dict[str, Any] = await story.star(connection)
        found["staged"] = await self.rows(
            "SELECT id, source, type, subject, sequence, at, customer, data FROM staged ORDER BY id"
        )
        found["loaded"] = await self.rows("SELECT count(*) FROM staged WHERE loaded_at IS NULL")
        found["watermark"] = await self.rows("SELECT source, at FROM watermark ORDER BY source")
        found["day"] = await self.rows("SELECT day, closed_at IS NULL FROM day ORDER BY day")
        found["erased"] = await self.rows("SELECT customer FROM erased ORDER BY customer")
        return found


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("star")
    folder.chmod(0o755)  # PostgreSQL runs as another user

    stack = AsyncExitStack()

    async def opened() -> Warehouse:
        supervisor = await stack.enter_async_context(Supervisor(folder))
        server = (await supervisor.start("postgres", settings={"fsync": False})).url
        pool = await stack.enter_async_context(database.opened(server, "analytics", MIGRATIONS, most=5))
        return Warehouse(runner, pool, Staging(pool), star.Loader(pool))

    with asyncio.Runner() as runner:
        yield runner.run(opened())
        runner.run(stack.aclose())


@pytest.fixture
def empty(warehouse: Warehouse) -> Warehouse:
    warehouse.run(warehouse.change(EMPTY))
    warehouse.now = LATER
    return warehouse


Test = Callable[[Warehouse], Awaitable[None]]


def in_loop(test: Test) -> Callable[[Warehouse], None]:
    def run(empty: Warehouse) -> None:
        empty.run(test(empty))

    run.__name__, run.__doc__ = test.__name__, test.__doc__  # type: ignore[attr-defined]  # pyright: ignore
    return run


SKUS, USERS = ("hat", "mug", "pen"), ("ann", "bob", "guest-1")
MINUTES = st.integers(0, 4 * 24 * 60).map(lambda minutes: at(minutes / 24 / 60))


@st.composite
def orders(draw: st.DrawFn, name: str) -> list[Event]:
    """What is told of one order: some are only placed, some are confirmed, some come back; money may be told or not."""
    user = draw(st.sampled_from(USERS))
    skus = draw(st.lists(st.sampled_from(SKUS), min_size=1, max_size=2, unique=True))
    lines = [(sku, draw(st.integers(1, 3)), draw(st.integers(1, 9))) for sku in skus]
    cents = sum(quantity * unit for _, quantity, unit in lines)
    begin = draw(MINUTES)
    after = sorted(draw(st.lists(st.integers(0, 40), min_size=4, max_size=4)))
    moments = [begin + timedelta(hours=hours) for hours in after]
    story_ = [
        story.placed(name, begin, *lines, user=user),
        story.captured(name, cents, moments[0]),
        story.confirmed(name, moments[1], user=user),
        story.refunded(name, cents, moments[2]),
        story.closed(name, moments[3], user=user),
    ]
    return story_[: draw(st.integers(1, 5))]


@st.composite
def products(draw: st.DrawFn, sku: str) -> list[Event]:
    """What is told of one product; some are never described."""
    times = sorted(draw(st.lists(MINUTES, max_size=3)))
    categories = [draw(st.sampled_from(("a", "b"))) for _ in times]
    return [
        story.product(sku, category, when, version=version)
        for version, (when, category) in enumerate(zip(times, categories, strict=True), 1)
    ]


@st.composite
def runs(draw: st.DrawFn) -> list[Event]:
    """What has happened, in its order."""
    events = [event for sku in SKUS for event in draw(products(sku))]
    events += [event for n in range(draw(st.integers(1, 3))) for event in draw(orders(f"order-{n}"))]
    events += [story.registered("ann", draw(MINUTES))] if draw(st.booleans()) else []
    events += [story.erased("ann", draw(MINUTES))] if draw(st.booleans()) else []
    return sorted(events, key=lambda event: (event.headers["time"], event.id))


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to make a run that fails smaller takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(run=runs(), data=st.data())
def test_any_order_of_the_events_with_any_of_them_twice_gives_the_same_star_schema(
    warehouse: Warehouse, run: list[Event], data: st.DataObject
) -> None:
    twice = data.draw(st.lists(st.sampled_from(run), max_size=5))
    arriving = data.draw(st.permutations([*run, *twice]))
    parts = data.draw(st.lists(st.integers(1, 6), min_size=len(arriving), max_size=len(arriving)))
    built = data.draw(st.lists(st.integers(0, 6), max_size=3))
    note(f"{[event.id for event in arriving]} in parts of {parts}, days {built} built in between")

    async def in_order() -> dict[str, Any]:
        await warehouse.change(EMPTY)
        await warehouse.told(*run)
        return await warehouse.whole()

    async def otherwise() -> dict[str, Any]:
        await warehouse.change(EMPTY)
        left = list(arriving)
        for part, number in zip(parts, [*built, *parts], strict=False):
            await warehouse.hear(*left[:part])
            left = left[part:]
            if number % 2:
                await warehouse.loader.run_once(warehouse.now, limit=part)
            else:
                await warehouse.build(number)
            if not left:
                break
        await warehouse.hear(*left)
        await warehouse.load(limit=3)
        for number in built:
            await warehouse.build(number)
        return await warehouse.whole()

    expected = warehouse.run(in_order())
    assert warehouse.run(otherwise()) == expected
    assert warehouse.run(facts_by_hand(warehouse, run)) == []


async def facts_by_hand(warehouse: Warehouse, run: list[Event]) -> list[object]:
    """What the sales are by a fold that knows nothing of SQL, and where the tables say something else."""
    sold: list[tuple[object, ...]] = []
    gone = {event.subject for event in run if event.type == "users.user-erased.v1"}
    key = await warehouse.staging.key()
    of = {(event.subject, event.type.split(".")[1]): event for event in run}
    for (order, kind), event in of.items():
        if kind != "order-placed" or (order, "order-confirmed") not in of:
            continue
        when = datetime.fromisoformat(of[order, "order-confirmed"].headers["time"])
        user = event.data["user"]
        for number, line in enumerate(event.data["lines"], 1):
            known = [one for one in run if one.type.startswith("catalog") and one.subject == line["sku"]]
            then = [one for one in known if datetime.fromisoformat(one.headers["time"]) <= when] or known[:1]
            category = then[-1].data["category"] if then else "unknown"
            buyer = "erased" if user in gone else pseudonym(key, user)
            cents = line["quantity"] * line["unit"]["cents"]
            sold.append((order, number, when.astimezone(UTC).date(), category, buyer, line["quantity"], cents))
    found = await warehouse.rows(
        "SELECT order_id, line, day, category, customer, quantity, cents FROM fact_sales AS f "
        "JOIN dim_product AS p ON p.sku = f.sku AND version = product_version"
    )
    return sorted(set(sold) ^ set(found), key=str)


HAT = ("hat", 2, 500)
REST = "day, sold_at, sku, product_version, customer, 1, 1, 'EUR'"


@in_loop
async def test_a_fact_is_there_when_its_order_was_placed_and_confirmed_whichever_came_first(empty: Warehouse) -> None:
    await empty.told(story.confirmed("o", at(1)))
    assert await empty.rows("SELECT FROM fact_sales") == []
    await empty.told(story.placed("o", at(0), HAT))
    assert await empty.rows("SELECT order_id, day, sku, quantity, cents FROM fact_sales") == [
        ("o", day(1), "hat", 2, 1000)
    ]


@in_loop
async def test_the_day_is_that_of_the_event_in_utc_to_the_last_microsecond(empty: Warehouse) -> None:
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    for name, when in (("before", midnight - timedelta(microseconds=1)), ("at", midnight)):
        await empty.told(story.placed(name, at(0), HAT), story.confirmed(name, when))
    assert await empty.rows("SELECT order_id, day FROM fact_sales ORDER BY 1") == [("at", day(1)), ("before", day(0))]


@in_loop
async def test_a_version_that_comes_late_takes_the_sales_of_its_time_and_no_others(empty: Warehouse) -> None:
    await empty.told(story.product("hat", "hats", at(0)))
    for name, when in (("one", at(1)), ("two", at(2)), ("three", at(3))):
        await empty.told(story.placed(name, at(0), HAT), story.confirmed(name, when))
    await empty.told(story.product("hat", "gifts", at(2.5), version=3))
    await empty.told(story.product("hat", "sale", at(1.5), version=2))
    reports = Reports(empty.pool)
    found = {one.key: one.cents for one in await reports.sales(By.CATEGORY, day(0), day(9))}
    assert found == {"gifts": 1000, "hats": 1000, "sale": 1000}
    assert await empty.rows("SELECT version, valid_from, valid_to FROM dim_product ORDER BY 1") == [
        (1, at(0), at(1.5)),
        (2, at(1.5), at(2.5)),
        (3, at(2.5), None),
    ]


@in_loop
async def test_a_late_event_opens_its_day_again_and_says_why(empty: Warehouse) -> None:
    """Days are over when both sources have told of a later one; the clock closes them only after hours."""
    empty.now = at(0.01)
    early = [story.product("hat", "hats", at(0)), story.placed("one", at(0), HAT), story.confirmed("one", at(0))]
    await empty.told(*early)
    assert await empty.rows("SELECT day, closed_at FROM day") == [(day(0), None)]
    empty.now = at(0.6)
    await empty.told(story.confirmed("two", at(0.6)))
    assert await empty.rows("SELECT closed_at FROM day WHERE day = %s", day(0)) == [(None,)], "payment is silent"
    await empty.told(story.captured("two", 1000, at(0.6)))
    assert await empty.rows("SELECT closed_at FROM day WHERE day = %s", day(0)) == [(at(0.6),)]
    assert await empty.rows("SELECT FROM reopening") == []

    empty.now = at(0.7)
    await empty.hear(early[1], early[2])
    await empty.load()
    assert await empty.rows("SELECT FROM reopening") == [], "what comes twice changes nothing"
    late = [story.placed("late", at(0), HAT), story.confirmed("late", at(0))]
    await empty.told(*late)
    await empty.told(story.product("hat", "caps", at(0.1), version=2))
    why = await empty.rows("SELECT day, at, reason, event FROM reopening ORDER BY number")
    assert why == [(day(0), at(0.7), "a late event", late[1].id)], "a version of after the sale changes nothing"
    assert await empty.rows("SELECT closed_at FROM day WHERE day = %s", day(0)) == [(at(0.7),)]
    (one,) = await Reports(empty.pool).days(day(0), day(0))
    assert [words[1:] for words in one.reopened] == [["a late event", late[1].id]]


@in_loop
async def test_a_silent_source_holds_a_day_open_for_hours_and_no_longer(empty: Warehouse) -> None:
    empty.now = at(0.5) + timedelta(hours=5, minutes=59)
    await empty.told(story.placed("one", at(0), HAT), story.confirmed("one", at(0)))
    assert await empty.rows("SELECT closed_at FROM day") == [(None,)]
    empty.now = at(0.5) + timedelta(hours=6)
    await empty.load()
    assert await empty.rows("SELECT closed_at FROM day") == [(empty.now,)]


@in_loop
async def test_nothing_says_who_somebody_is_and_who_is_erased_is_nobody(empty: Warehouse) -> None:
    await empty.told(
        story.registered("ann", at(0)),
        story.placed("one", at(1), HAT, user="ann"),
        story.confirmed("one", at(1), user="ann"),
        story.placed("two", at(1), HAT, user="guest-7"),
        story.confirmed("two", at(1), user="guest-7"),
    )
    everything = str(await empty.whole())
    assert not [word for word in ("'ann'", "ann/", "guest-7", "0" * 64, "key of") if word in everything]
    assert await empty.rows("SELECT kind, registered_on FROM dim_customer ORDER BY kind") == [
        ("account", day(0)),
        ("erased", None),
        ("guest", None),
    ]
    await empty.told(story.erased("ann", at(2)), story.closed("one", at(3)), story.placed("three", at(3), HAT))
    assert await empty.rows("SELECT kind FROM dim_customer ORDER BY kind") == [("erased",), ("guest",)]
    assert await empty.rows("SELECT customer FROM fact_sales WHERE order_id = 'one'") == [("erased",)]
    assert await empty.rows("SELECT customer FROM fact_returns") == [("erased",)]
    gone = pseudonym(await empty.staging.key(), "ann")
    assert await empty.rows("SELECT FROM staged WHERE customer = %s", gone) == []


@in_loop
async def test_a_day_is_built_again_whole_or_not_at_all_whatever_was_in_it(empty: Warehouse) -> None:
    for name, when in (("one", at(0)), ("two", at(0)), ("three", at(1))):
        await empty.told(story.placed(name, when, HAT), story.captured(name, 1000, when), story.confirmed(name, when))
    await empty.told(story.product("hat", "hats", at(0)), story.closed("one", at(1)))
    await empty.change("TRUNCATE reopening")
    right = await empty.whole()
    for spoil in (
        "DELETE FROM fact_sales WHERE order_id = 'one'",
        "UPDATE fact_sales SET cents = 1 WHERE order_id = 'one'",
        "UPDATE fact_sales SET day = day + 1 WHERE order_id = 'one'",
        "UPDATE fact_sales SET day = day - 1 WHERE order_id = 'three'",
        f"INSERT INTO fact_sales SELECT 'ghost', 1, {REST} FROM fact_sales LIMIT 1",
        f"INSERT INTO fact_sales SELECT order_id, 9, {REST} FROM fact_sales",
        "DELETE FROM fact_returns",
        "DELETE FROM fact_payments",
        "UPDATE dim_product SET category = 'other'",
    ):
        await empty.change(spoil)
        assert await empty.whole() != right, spoil
        for number in (0, 1):
            await empty.build(number)
        await empty.load()
        assert await empty.whole() == right, spoil
    assert {reason for (reason,) in await empty.rows("SELECT reason FROM reopening")} == {"a backfill"}


@in_loop
async def test_two_loaders_and_a_backfill_at_once_do_what_one_does(empty: Warehouse) -> None:
    events: list[Event] = [story.product("hat", "hats", at(0))]
    for number in range(20):
        when = at(number / 10)
        events += [story.placed(f"o{number}", when, HAT), story.confirmed(f"o{number}", when)]
    await empty.told(*events)
    expected = await empty.whole()
    await empty.change(EMPTY)
    await asyncio.gather(
        *(empty.hear(*events[n::3]) for n in range(3)),
        empty.load(limit=2),
        empty.load(limit=3),
        *(empty.build(number) for number in range(3)),
    )
    await empty.load()
    assert await empty.whole() == expected


@in_loop
async def test_who_loses_its_connection_in_a_load_has_loaded_nothing(empty: Warehouse) -> None:
    await empty.hear(story.placed("one", at(0), HAT), story.confirmed("one", at(0)))
    before = await empty.whole()
    with pytest.raises(Exception, match="terminating connection"):
        async with star.held(empty.pool) as tx:
            await _refreshed_and_killed(tx)
    assert await empty.whole() == before
    await empty.load()
    assert len(await empty.rows("SELECT FROM fact_sales")) == 1


async def _refreshed_and_killed(tx: AsyncConnection) -> None:
    assert await star.refresh(tx, ["one"])
    await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
