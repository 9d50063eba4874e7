"""What an orchestrator of sagas promises, on a real PostgreSQL, with processes that are killed at every edge."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from faultline.components import Supervisor
from faultline.patterns import (
    AppendNotFirst,
    EventStore,
    Fact,
    NotTried,
    Orchestrator,
    Place,
    Saga,
    Step,
    StepRefused,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from tests.patterns.conftest import Until

    Call = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]

connect = psycopg.AsyncConnection.connect


class World:
    """Participants that keep what a saga asks of them, and lose an answer, or refuse, when they are told to."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.undone: list[str] = []
        self.calls: list[str] = []
        self.errors: dict[str, list[BaseException]] = {}
        """By verb and key; raised before anything has happened."""
        self.lost: Counter[str] = Counter()
        """By verb and key: how many answers are lost, after it has happened."""
        self.held: dict[str, asyncio.Event] = {}
        """By verb and key: the answer waits for it."""
        self.given: dict[str, Mapping[str, Any]] = {}
        """By verb and key: the saga's data."""
        self.reached: dict[str, asyncio.Event] = {}

    async def _happen(self, call: str, take_effect: Callable[[], object]) -> None:
        self.calls.append(call)
        self.reached.setdefault(call, asyncio.Event()).set()
        if self.errors.get(call):
            raise self.errors[call].pop(0)
        if call in self.held:
            await self.held.pop(call).wait()
        take_effect()
        if self.lost[call]:
            self.lost[call] -= 1
            raise TimeoutError("no answer")

    async def act(self, key: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        def take_effect() -> None:
            if key in self.undone:
                raise StepRefused(f"{key} was undone before")
            self.done.setdefault(key, len(self.done) + 1)

        await self._happen(f"act {key}", take_effect)
        return {key.partition("/")[2]: self.done[key]}

    async def undo(self, key: str, data: Mapping[str, Any]) -> None:
        self.given[f"undo {key}"] = data
        await self._happen(f"undo {key}", lambda: key in self.undone or self.undone.append(key))

    async def ask(self, key: str, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
        await self._happen(f"ask {key}", lambda: None)
        return {key.partition("/")[2]: self.done[key]} if key in self.done else None

    def checkout(self, *, version: int = 1, within: float | None = None, **more: Any) -> Saga:
        return Saga(
            "checkout",
            version,
            (
                Step("reserve", self.act, undo=self.undo, ask=self.ask, **more),
                Step("hold", self.act, undo=self.undo, **more),
                Step("capture", self.act, ask=self.ask, kind="pivot", **more),
                Step("confirm", self.act, kind="retriable", **more),
            ),
            within,
        )

    def net(self, saga: str) -> list[str]:
        """What the saga has done and not undone."""
        return [key.partition("/")[2] for key in self.done if key.startswith(f"{saga}/") and key not in self.undone]


ALL = ["reserve", "hold", "capture", "confirm"]


@pytest.fixture
async def dsn(tmp_path: Path) -> AsyncIterator[str]:
    async with Supervisor(tmp_path / "postgres") as supervisor:
        url = (await supervisor.start("postgres", settings={"fsync": False})).url
        async with Orchestrator(url, []) as one, Orchestrator(url, []) as other:
            await asyncio.gather(*(made.create() for made in (one, other) for _ in range(5)))
        yield url


@pytest.fixture
def world() -> World:
    return World()


def orchestrator(dsn: str, *sagas: Saga, **settings: Any) -> Orchestrator:
    return Orchestrator(dsn, sagas, **{"lease": 30.0, "random": lambda: 0.0} | settings)


async def execute(dsn: str, statement: str) -> int:
    async with await connect(dsn, autocommit=True) as connection:
        return (await connection.execute(statement.encode())).rowcount


async def let_leases_end(dsn: str) -> None:
    """As if their time had passed."""
    await execute(dsn, "UPDATE sagas SET due_at = clock_timestamp()")


async def finish(mine: Orchestrator) -> None:
    """Advance until nothing is due: pauses are of no length here."""
    async with asyncio.timeout(30):
        while await mine.run_once():
            pass


async def test_a_saga_is_done_step_by_step_and_what_they_bring_is_kept(dsn: str, world: World) -> None:
    checkout = world.checkout()
    async with orchestrator(dsn, checkout) as mine:
        assert await mine.start("s", checkout, {"cents": 5})
        assert (await mine.told("s")).status == "running"
        assert [await mine.run_once(), await mine.run_once()] == [1, 0]
        told = await mine.told("s")
        assert (told.name, told.version, told.status, told.error) == ("checkout", 1, "done", "")
        assert told.data == {"cents": 5, "reserve": 1, "hold": 2, "capture": 3, "confirm": 4}
        assert await mine.counts() == {"done": 1}
    assert world.calls == ["act s/reserve", "act s/hold", "act s/capture", "act s/confirm"], "asked, or done twice"


async def test_a_refused_pivot_undoes_what_was_done_in_reverse(dsn: str, world: World) -> None:
    checkout = world.checkout()
    world.errors["act s/capture"] = [StepRefused("card declined", told={"why": "declined"})]
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await finish(mine)
        assert (await mine.told("s")).status == "undone"
    assert world.given["undo s/reserve"] == {"why": "declined", "reserve": 1, "hold": 2}
    assert world.calls[3:] == ["undo s/hold", "undo s/reserve"]
    assert world.net("s") == []


async def test_a_step_that_was_done_with_the_start_is_undone_when_the_saga_turns_back(dsn: str, world: World) -> None:
    late = world.checkout(within=0)
    async with orchestrator(dsn, late) as mine:
        assert await mine.start("s", late, {}, done=1)
        await finish(mine)
        assert (await mine.told("s")).status == "undone"
        for done in (-1, 4):
            with pytest.raises(ValueError, match="nothing is left"):
                await mine.start("t", late, {}, done=done)
    assert world.calls == ["undo s/reserve"]


async def test_an_unknown_outcome_is_resolved_by_asking_with_the_key(dsn: str, world: World) -> None:
    checkout = world.checkout()
    world.lost["act done/capture"] = 1
    world.errors["act lost/capture"] = [TimeoutError()]
    async with orchestrator(dsn, checkout) as mine:
        for name in ("done", "lost"):
            await mine.start(name, checkout, {})
            await finish(mine)
            assert (await mine.told(name)).status == "done"
    assert world.calls[2:5] == ["act done/capture", "ask done/capture", "act done/confirm"], "it had happened"
    assert world.calls[7:10] == ["act lost/capture", "ask lost/capture", "act lost/capture"], "it had not"


async def test_a_doubt_that_is_resolved_is_none_for_the_next_steps(dsn: str, world: World) -> None:
    checkout = world.checkout()
    world.lost["act s/reserve"] = 1
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await finish(mine)
    assert world.calls == ["act s/reserve", "ask s/reserve", "act s/hold", "act s/capture", "act s/confirm"]


async def test_a_step_that_cannot_be_asked_is_repeated_with_its_key(dsn: str, world: World) -> None:
    checkout = world.checkout()
    world.lost["act s/hold"] = 2
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await finish(mine)
        assert (await mine.told("s")).status == "done"
    assert world.calls.count("act s/hold") == 3
    assert world.net("s") == ALL


async def test_a_pivot_in_doubt_is_never_guessed_however_long_it_takes(dsn: str, world: World) -> None:
    checkout = world.checkout(within=3600, attempts=2)
    world.lost["act s/capture"] = 1
    world.errors["ask s/capture"] = [ConnectionError("away") for _ in range(20)]
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        for _ in range(20):
            await mine.run_once()
        await execute(dsn, "UPDATE sagas SET late_at = clock_timestamp()")
        told = await mine.told("s")
        assert (told.status, told.place, told.attempts) == ("running", Place("forward", 2), 20)
        assert told.error == "capture: ConnectionError: away"
        assert world.undone == []
        await finish(mine)
        assert (await mine.told("s")).status == "done"
    assert world.calls.count("act s/capture") == 1
    assert world.net("s") == ALL


async def test_after_the_pivot_it_only_goes_forward(dsn: str, world: World) -> None:
    checkout = world.checkout(within=3600, attempts=2)
    world.errors["act s/confirm"] = [ConnectionError(), NotTried(), TimeoutError(), ConnectionError()]
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await mine.run_once()
        await execute(dsn, "UPDATE sagas SET late_at = clock_timestamp()")
        await finish(mine)
        assert (await mine.told("s")).status == "done"
    assert (world.net("s"), world.undone) == (ALL, [])


async def test_what_may_have_happened_is_undone_with_the_rest(dsn: str, world: World) -> None:
    checkout = world.checkout(attempts=2)
    world.lost["act s/hold"] = 5
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await finish(mine)
        assert (await mine.told("s")).status == "undone"
    assert world.calls.count("act s/hold") == 2
    assert world.undone == ["s/hold", "s/reserve"]


async def test_each_step_has_attempts_of_its_own(dsn: str, world: World) -> None:
    checkout = world.checkout(attempts=2)
    world.errors["act s/reserve"], world.errors["act s/hold"] = [NotTried()], [NotTried()]
    world.held["act s/capture"] = let_go = asyncio.Event()
    reached = world.reached["act s/capture"] = asyncio.Event()
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        running = asyncio.create_task(finish(mine))
        await reached.wait()
        assert (await mine.told("s")).attempts == 0
        let_go.set()
        await running
        assert (await mine.told("s")).status == "done"


async def test_what_was_not_sent_is_not_undone(dsn: str, world: World) -> None:
    checkout = world.checkout(attempts=2)
    world.errors["act s/hold"] = [NotTried(), NotTried()]
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await finish(mine)
        assert (await mine.told("s")).status == "undone"
    assert world.undone == ["s/reserve"]


async def test_undoing_is_repeated_until_it_succeeds_and_takes_effect_once(dsn: str, world: World) -> None:
    checkout = world.checkout(attempts=1)
    world.errors["act s/capture"] = [StepRefused("declined")]
    world.errors["undo s/hold"] = [ConnectionResetError(), NotTried()]
    world.lost["undo s/reserve"] = 3
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await finish(mine)
        assert (await mine.told("s")).status == "undone"
    assert (world.calls.count("undo s/hold"), world.calls.count("undo s/reserve")) == (3, 4)
    assert world.undone == ["s/hold", "s/reserve"]


async def test_what_must_not_be_refused_is_stuck_says_so_and_holds_up_nobody(dsn: str, world: World) -> None:
    checkout = world.checkout()
    world.errors["act s/confirm"] = [StepRefused("no such order")]
    async with orchestrator(dsn, checkout) as mine:
        for name in ("s", "t"):
            await mine.start(name, checkout, {})
        await finish(mine)
        told = await mine.told("s")
        assert (told.status, told.error) == ("stuck", "confirm: no such order")
        assert await mine.counts() == {"stuck": 1, "done": 1}
        assert [await mine.resume("t"), await mine.resume("s"), await mine.resume("s")] == [False, True, False]
        await finish(mine)
        assert await mine.counts() == {"done": 2}
    assert world.undone == []


async def test_a_deadline_outlives_every_orchestrator(dsn: str, world: World) -> None:
    checkout = world.checkout(within=3600)
    world.errors["act s/hold"] = [TimeoutError()]
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        await mine.run_once()
    async with orchestrator(dsn, checkout) as other:
        await execute(dsn, "UPDATE sagas SET late_at = clock_timestamp()")
        await finish(other)
        told = await other.told("s")
        assert (told.status, told.data) == ("undone", {"reserve": 1})
    assert world.undone == ["s/hold", "s/reserve"], "it may have happened"

    short = world.checkout(version=2, within=0.0)
    async with orchestrator(dsn, short) as mine:
        await mine.start("u", short, {})
        await finish(mine)
        assert (await mine.told("u")).status == "undone"
    assert not any("u/" in call for call in world.calls), "it was too late for anything"


async def test_a_participant_that_hangs_is_left_after_the_step_s_time(dsn: str, world: World) -> None:
    checkout = world.checkout(timeout=0.05)
    world.held["act s/reserve"] = asyncio.Event()
    async with orchestrator(dsn, checkout) as mine:
        await mine.start("s", checkout, {})
        async with asyncio.timeout(20):
            assert await mine.run_once() == 1
        told = await mine.told("s")
        assert told.error == "reserve: DeadlineExceeded: not done within 0.05 s"
        await finish(mine)
        assert (await mine.told("s")).status == "done"
    assert world.calls[:3] == ["act s/reserve", "ask s/reserve", "act s/reserve"]


async def test_orchestrators_side_by_side_share_the_sagas_and_each_step_is_done_once(dsn: str, world: World) -> None:
    checkout = world.checkout()
    mine, other = orchestrator(dsn, checkout), orchestrator(dsn, checkout)
    async with mine, other:
        for number in range(40):
            assert await mine.start(f"s{number}", checkout, {})
            assert not await other.start(f"s{number}", checkout, {"again": True})
        advanced = await asyncio.gather(*(one.run_once(6) for one in (mine, other) for _ in range(5)))
        assert sum(advanced) == 40
        assert await other.counts() == {"done": 40}
    assert set(Counter(world.calls).values()) == {1}
    assert len(world.calls) == 160


@pytest.mark.parametrize("step", ["reserve", "hold"])
async def test_while_one_has_a_saga_nobody_else_advances_it(dsn: str, world: World, step: str) -> None:
    checkout = world.checkout()
    world.held[f"act s/{step}"] = let_go = asyncio.Event()
    reached = world.reached[f"act s/{step}"] = asyncio.Event()
    async with orchestrator(dsn, checkout) as mine, orchestrator(dsn, checkout) as other:
        await mine.start("s", checkout, {})
        running = asyncio.create_task(mine.run_once())
        await reached.wait()
        assert await other.run_once() == 0
        assert not await other.wake("s"), "it does not pause: somebody is at it"
        assert await other.run_once() == 0
        let_go.set()
        assert await running == 1
        assert (await other.told("s")).status == "done"


@pytest.mark.parametrize("refused", [False, True])
async def test_one_that_stops_and_comes_back_late_writes_nothing(dsn: str, world: World, refused: bool) -> None:
    checkout = world.checkout(timeout=10)
    world.held["act s/hold"] = wake_up = asyncio.Event()
    reached = world.reached["act s/hold"] = asyncio.Event()
    if refused:
        world.errors["act s/capture"] = [StepRefused("declined")]
    async with orchestrator(dsn, checkout) as stopped, orchestrator(dsn, checkout) as other:
        await stopped.start("s", checkout, {})
        running = asyncio.create_task(stopped.run_once())
        await reached.wait()
        await let_leases_end(dsn)
        await finish(other)
        ended = await other.told("s")
        assert ended.status == ("undone" if refused else "done")
        before = len(world.calls)
        wake_up.set()
        await running
        assert await other.told("s") == ended, "a late answer changed what another had ended"
    assert len(world.calls) == before, "it went on"
    assert world.net("s") == ([] if refused else ALL)


async def test_one_that_stops_mid_way_does_not_disturb_who_is_at_it_now(dsn: str, world: World) -> None:
    checkout = world.checkout(timeout=10)
    world.held["act s/reserve"] = wake_up = asyncio.Event()
    reached = world.reached["act s/reserve"] = asyncio.Event()
    async with orchestrator(dsn, checkout) as stopped, orchestrator(dsn, checkout) as other:
        await stopped.start("s", checkout, {})
        first = asyncio.create_task(stopped.run_once())
        await reached.wait()
        await let_leases_end(dsn)
        world.held["act s/capture"] = go_on = asyncio.Event()
        captures = world.reached["act s/capture"] = asyncio.Event()
        second = asyncio.create_task(other.run_once())
        await captures.wait()
        wake_up.set()
        await first
        assert (await other.told("s")).place == Place("forward", 2)
        go_on.set()
        await second
        assert (await other.told("s")).status == "done"
    assert world.calls == [
        "act s/reserve",
        "ask s/reserve",
        "act s/reserve",
        "act s/hold",
        "act s/capture",
        "act s/confirm",
    ]


async def test_old_sagas_finish_as_they_began_and_unknown_ones_wait(dsn: str, world: World) -> None:
    old = world.checkout(version=1)
    new = Saga("checkout", 2, (Step("reserve", world.act, undo=world.undo), Step("express", world.act, kind="pivot")))
    async with (
        orchestrator(dsn, old) as before,
        orchestrator(dsn, new) as only_new,
        orchestrator(dsn, old, new) as both,
    ):
        await before.start("old", old, {})
        await only_new.start("new", new, {})
        await finish(only_new)
        assert (await both.told("old")).status == "running"
        assert world.net("new") == ["reserve", "express"]
        await finish(both)
        assert (await both.told("old")).status == "done"
    assert world.net("old") == ALL


async def test_a_saga_begins_with_the_transaction_that_starts_it(dsn: str, world: World) -> None:
    checkout = world.checkout()
    async with orchestrator(dsn, checkout) as mine, await connect(dsn) as tx:
        assert await mine.start("s", checkout, {}, tx=tx)
        await tx.rollback()
        with pytest.raises(LookupError, match="no saga 's'"):
            await mine.told("s")
        assert await mine.start("s", checkout, {}, tx=tx)
        assert await mine.run_once() == 0
        await tx.commit()
        assert await mine.run_once() == 1


async def test_an_event_and_the_saga_that_follows_from_it_are_there_together_or_not_at_all(
    dsn: str, world: World
) -> None:
    checkout = world.checkout()
    placed = [Fact(id="e", type="order-placed", data={})]
    async with EventStore(dsn) as store, orchestrator(dsn, checkout) as mine, await connect(dsn) as tx:
        await store.create()
        await store.append("order-1", 0, placed, tx=tx)
        assert await mine.start("s", checkout, {}, tx=tx)
        await tx.rollback()
        assert (await store.read("order-1"), await mine.run_once()) == ([], 0)
        await mine.start("s", checkout, {}, tx=tx)
        with pytest.raises(AppendNotFirst):
            await store.append("order-1", 0, placed, tx=tx)
        await tx.rollback()
        await store.append("order-1", 0, placed, tx=tx)
        await mine.start("s", checkout, {}, tx=tx)
        await tx.commit()
        assert (len(await store.read("order-1")), await mine.run_once()) == (1, 1)


async def test_a_saga_costs_a_commit_for_its_claim_and_one_for_each_step(
    dsn: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, statements = psycopg.AsyncConnection.execute, list[str]()

    async def count(self: Any, query: Any, *args: Any, **more: Any) -> Any:
        statements.append(str(query).split()[0])
        return await execute(self, query, *args, **more)

    checkout = world.checkout()
    async with orchestrator(dsn, checkout) as mine:
        await mine.counts()  # opens the connection
        monkeypatch.setattr(psycopg.AsyncConnection, "execute", count)
        await mine.start("s", checkout, {})
        assert await mine.run_once() == 1
        assert (await mine.told("s")).status == "done"
    assert statements == ["INSERT", "UPDATE", *(["UPDATE"] * 4), "SELECT"]


async def test_a_reply_by_message_wakes_a_saga_and_is_not_believed(dsn: str, world: World) -> None:
    checkout = world.checkout()
    world.lost["act s/capture"] = 1
    async with orchestrator(dsn, checkout, base=3600.0, cap=3600.0, random=lambda: 0.9) as mine:
        await mine.start("s", checkout, {})
        assert [await mine.run_once(), await mine.run_once()] == [1, 0]
        assert await mine.wake("s")
        assert await mine.run_once() == 1
        assert (await mine.told("s")).status == "done"
        assert not await mine.wake("s")
    assert "ask s/capture" in world.calls


async def test_a_reply_that_comes_before_the_pause_has_begun_ends_it(dsn: str, world: World) -> None:
    checkout = world.checkout()
    world.lost["act s/capture"] = 1
    world.held["act s/capture"] = let_go = asyncio.Event()
    reached = world.reached["act s/capture"] = asyncio.Event()
    async with orchestrator(dsn, checkout, base=3600.0, cap=3600.0, random=lambda: 0.9) as mine:
        await mine.start("s", checkout, {})
        running = asyncio.create_task(mine.run_once())
        await reached.wait()
        assert not await mine.wake("s"), "it does not pause: somebody is at it"
        let_go.set()
        assert await running == 1
        assert (await mine.told("s")).status == "running"
        assert await mine.run_once() == 1, "it was to pause for an hour"
        assert (await mine.told("s")).status == "done"


async def due_in(dsn: str) -> float:
    """Seconds until the one saga that there is goes on."""
    async with await connect(dsn) as reader:
        due = "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM sagas"
        row = await (await reader.execute(due)).fetchone()
    assert row
    return float(row[0])


async def test_a_step_that_waits_for_a_message_has_a_pause_of_its_own(dsn: str, world: World) -> None:
    plain = world.checkout()
    steps = tuple(replace(step, base=500.0) if step.name == "capture" else step for step in plain.steps)
    checkout = replace(plain, steps=steps)
    world.lost["act s/capture"] = 1
    async with orchestrator(dsn, checkout, base=1.0, cap=1000.0, random=lambda: 0.5) as mine:
        await mine.start("s", checkout, {})
        await mine.run_once()
        assert await due_in(dsn) == pytest.approx(250, abs=10)


async def test_pauses_grow_by_chance_up_to_the_cap(dsn: str, world: World) -> None:
    checkout = world.checkout(attempts=20)
    world.errors["act s/reserve"] = [ConnectionError() for _ in range(6)]
    pauses: list[float] = []
    async with orchestrator(dsn, checkout, base=100.0, cap=1000.0, random=lambda: 0.5) as mine:
        await mine.start("s", checkout, {})
        for _ in range(6):
            assert await mine.run_once() == 1
            pauses.append(await due_in(dsn))
            await let_leases_end(dsn)
    assert pauses == pytest.approx([50, 100, 200, 400, 500, 500], abs=10)


async def test_it_runs_on_when_postgresql_has_hung_up(dsn: str, world: World, until: Until) -> None:
    checkout = world.checkout()
    told: list[Exception] = []
    async with orchestrator(dsn, checkout) as mine, orchestrator(dsn, checkout) as watch:
        world.held["act s/hold"] = let_go = asyncio.Event()
        reached = world.reached["act s/hold"] = asyncio.Event()
        await mine.start("s", checkout, {})
        await execute(dsn, "ALTER TABLE sagas RENAME TO away")
        running = asyncio.create_task(mine.run(on_error=told.append, every=0.002))

        async def failed() -> bool:
            return bool(told)

        await until(failed)
        await execute(dsn, "ALTER TABLE away RENAME TO sagas")
        await reached.wait()
        let_go.set()

        async def done() -> bool:
            return (await watch.told("s")).status == "done"

        await until(done)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert all(isinstance(error, psycopg.errors.UndefinedTable) for error in told)


async def test_one_that_waits_for_a_slow_participant_holds_up_no_other(dsn: str, world: World, until: Until) -> None:
    checkout = world.checkout()
    told: list[Exception] = []
    async with orchestrator(dsn, checkout) as mine:
        world.held["act slow/hold"] = let_go = asyncio.Event()
        reached = world.reached["act slow/hold"] = asyncio.Event()
        running = asyncio.create_task(mine.run(on_error=told.append, every=0.002, most=2))
        await mine.start("slow", checkout, {})
        await reached.wait()
        for name in ("one", "two", "three"):
            await mine.start(name, checkout, {})

            async def done(name: str = name) -> bool:
                return (await mine.told(name)).status == "done"

            await until(done)
        assert (await mine.told("slow")).status == "running"
        let_go.set()

        async def last() -> bool:
            return (await mine.told("slow")).status == "done"

        await until(last)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not told


SWEEP = """
import asyncio, os, signal, sys
import psycopg
from faultline.patterns import Orchestrator, Saga, Step, StepRefused

dsn, name, refuses = sys.argv[1:]
edges = kill_at = 0


def edge():
    global edges
    edges += 1
    if edges == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


execute = psycopg.AsyncConnection.execute


async def announced(self, *args, **more):  # the orchestrator's own statements: before, and after they were executed
    edge()
    result = await execute(self, *args, **more)
    edge()
    return result


async def effect(verb, key):
    edge()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as world:
        cursor = world.cursor()
        if verb == "act" and refuses and key.endswith(refuses):
            raise StepRefused("declined")
        await cursor.execute("SELECT verb FROM effects WHERE key = %s AND verb = 'undo'", (key,))
        if verb == "act" and await cursor.fetchone():
            raise StepRefused("undone before")
        await cursor.execute("INSERT INTO effects VALUES (%s, %s) ON CONFLICT DO NOTHING", (key, verb))
        await cursor.execute("INSERT INTO calls VALUES (%s, %s)", (key, verb))
    edge()


async def act(key, data): await effect("act", key)
async def undo(key, data): await effect("undo", key)


async def ask(key, data):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as world:
        found = await world.cursor().execute("SELECT 1 FROM effects WHERE key = %s AND verb = 'act'", (key,))
        return {} if await found.fetchone() else None


checkout = Saga("checkout", 1, (
    Step("reserve", act, undo, ask), Step("hold", act, undo), Step("capture", act, ask=ask, kind="pivot"),
    Step("confirm", act, kind="retriable"),
))


async def main(saga):
    async with Orchestrator(dsn, [checkout], lease=60) as mine:
        await mine.start(saga, checkout, {})
        psycopg.AsyncConnection.execute = announced
        await mine.run_once()


async def recover():
    async with Orchestrator(dsn, [checkout], lease=60, base=0) as mine:
        while await mine.run_once():
            pass


def forked(number, work):
    global kill_at
    child = os.fork()
    if child == 0:
        kill_at = number
        asyncio.run(work)
        os._exit(0)
    work.close()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


kills = 0
while (code := forked(kills + 1, main(f"{name}{kills}"))) == -signal.SIGKILL:
    kills += 1
assert code == 0, code
with psycopg.connect(dsn, autocommit=True) as world:  # as if their leases had ended
    world.execute("UPDATE sagas SET due_at = clock_timestamp()")
assert forked(0, recover()) == 0
print(kills)
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("refuses", ["", "capture", "hold"])
async def test_killed_at_every_edge_a_saga_is_taken_over_and_each_effect_happens_once(dsn: str, refuses: str) -> None:
    await execute(dsn, "CREATE TABLE effects (key text, verb text, PRIMARY KEY (key, verb))")
    await execute(dsn, "CREATE TABLE calls (key text, verb text)")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SWEEP, dsn, "s", refuses, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    kills = int(output)
    acted = {"": ALL, "capture": ["reserve", "hold"], "hold": ["reserve"]}[refuses]
    undone = acted if refuses else []
    assert kills >= 2 * (1 + len(acted) + len(undone)) + 2 * (len(acted) + len(undone)), "an edge was left out"

    async with await connect(dsn) as reader:
        ended = await (await reader.execute("SELECT id, status FROM sagas")).fetchall()
        effects = await (await reader.execute("SELECT key, verb FROM effects")).fetchall()
        calls = Counter(await (await reader.execute("SELECT key, verb FROM calls")).fetchall())
    assert {row[1] for row in ended} == {"undone" if refuses else "done"}
    assert len(ended) == kills + 1
    expected = {(f"{saga}/{step}", "act") for saga, _ in ended for step in acted}
    expected |= {(f"{saga}/{step}", "undo") for saga, _ in ended for step in undone}
    assert set(effects) == expected
    again = [key for (key, verb), count in calls.items() if verb == "act" and count > 1]
    assert not [key for key in again if key.endswith(("reserve", "capture"))], "asking would have told"
    assert bool(again) == ("hold" in acted), "where nobody can be asked, it is done again, with the same key"


async def test_it_refuses_what_cannot_work(dsn: str, world: World) -> None:
    checkout = world.checkout()
    with pytest.raises(ValueError, match="two definitions of version 1"):
        orchestrator(dsn, checkout, world.checkout())
    with pytest.raises(ValueError, match=r"may take 20 s, and be taken over after 20"):
        orchestrator(dsn, world.checkout(timeout=10), lease=20.0)
    async with orchestrator(dsn, checkout) as mine:
        with pytest.raises(ValueError, match="is not among the definitions"):
            await mine.start("s", world.checkout(version=2), {})
        with pytest.raises(ValueError, match="no saga ''"):
            await mine.start("", checkout, {})
