"""Carries sagas out: persisted step by step, so that whoever is killed where, somebody goes on from there.

    orchestrator = Orchestrator(dsn, [checkout, checkout_before_may])
    async with connection.transaction():
        await store.append(order, 0, placed, tx=connection)
        await orchestrator.start(f"checkout-{order}", checkout, {"order": order}, tx=connection)

    await orchestrator.run(on_error=log)  # in any number of processes

**Promise.** A saga that was started ends: `done`, or `undone`, with each step's key used once, provided that its
participants keep what `saga` asks of them, and answer some day; or it is `stuck`, and says why. One orchestrator at a
time advances it. What is begun is written down before it is begun: who takes over from one that was killed asks what
has become of it. A saga goes on by the definition that it began with.

**How.** A row a saga. Whoever claims one (`FOR UPDATE SKIP LOCKED`) has it for `lease`, and a number, the fence, that
grows with every claim; each write asks for that number. So one that has stopped, and wakes up when another has taken
over, writes nothing any more. What it may still send carries the key that the other one uses, too. The write that ends
a step begins the next one.

**Time** is the server's: leases, deadlines and pauses outlive every process. `wake` ends a pause, for replies that
come by message: they are a hint, and `ask` gives the truth. Let an `act` that only sends a command raise
`TimeoutError` then.

**Not promised.** Isolation. That a saga ends in time, while a participant is silent from whom an answer is needed:
what can neither be undone nor known is asked for until it answers. That an effect without a key happens once.

**Cost.** A saga of n steps: one INSERT and n + 1 UPDATEs, each a commit and a round trip; undoing as many again. While
there is nothing to do, one query every so often. A step that fails is tried again after a moment chosen evenly between
0 and min(`cap`, `base` · 2ⁿ); a step may have a `base` of its own.

**When something fails**

- An orchestrator is killed or stops: its sagas wait until its lease is over.
- PostgreSQL goes away: `run_once` raises; what was running is continued later, by asking.
- A step that must not be refused is: `stuck`. Repair what it is about, then `resume`.

Sources: Richardson, *Microservices Patterns* (2018), chapter 4; Kleppmann, *How to do distributed locking* (2016), for
the fence.
"""

from __future__ import annotations

import asyncio
import json
import random as chance
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from faultline.patterns.connections import Connections, OverPostgres
from faultline.patterns.deadline import deadline
from faultline.patterns.errors import NotTried, StepRefused
from faultline.patterns.run_loop import run_loop
from faultline.patterns.saga import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from psycopg import AsyncConnection

    from faultline.patterns.saga import Call, Data, Outcome, Saga, Status, Step

AT_ONCE = 10  # sagas
STEEPEST = 64  # doublings: later ones would leave the range of a float before they leave `cap`

SCHEMA = """
CREATE TABLE IF NOT EXISTS sagas (
    id text PRIMARY KEY,
    name text NOT NULL,
    version int NOT NULL,
    data jsonb NOT NULL,
    status text NOT NULL DEFAULT 'running',
    direction text NOT NULL DEFAULT 'forward',
    step int NOT NULL DEFAULT 0,
    begun boolean NOT NULL DEFAULT false,
    attempts int NOT NULL DEFAULT 0,
    error text NOT NULL DEFAULT '',
    late_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    held boolean NOT NULL DEFAULT false,
    woken boolean NOT NULL DEFAULT false,
    fence bigint NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS sagas_due ON sagas (due_at) WHERE status = 'running';
"""
START = """
INSERT INTO sagas (id, name, version, data, step, late_at)
VALUES (%s, %s, %s, %s::jsonb, %s, coalesce(clock_timestamp() + make_interval(secs => %s), 'infinity'))
ON CONFLICT (id) DO NOTHING
"""
CLAIM = """
UPDATE sagas SET fence = fence + 1, held = true, begun = true, due_at = clock_timestamp() + make_interval(secs => %s)
FROM (
    SELECT id AS which, begun AS in_doubt FROM sagas
    WHERE status = 'running' AND due_at <= clock_timestamp()
    AND (name, version) IN (SELECT * FROM unnest(%s::text[], %s::int[]))
    ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED
) AS due WHERE id = which
RETURNING id, name, version, data, direction, step, in_doubt, attempts, fence, late_at <= clock_timestamp()
"""
SAVE = """
UPDATE sagas SET status = %(status)s, direction = %(direction)s, step = %(step)s, data = %(data)s::jsonb,
    begun = %(begun)s, attempts = %(attempts)s, error = %(error)s, held = %(held)s, woken = false,
    due_at = clock_timestamp() + make_interval(secs => CASE WHEN woken AND NOT %(held)s THEN 0 ELSE %(pause)s END)
WHERE id = %(id)s AND fence = %(fence)s
RETURNING late_at <= clock_timestamp()
"""
WAKE = """
UPDATE sagas SET woken = held, due_at = CASE WHEN held THEN due_at ELSE clock_timestamp() END
WHERE id = %s AND status = 'running' RETURNING NOT held
"""
RESUME = """
UPDATE sagas SET status = 'running', attempts = 0, due_at = clock_timestamp() WHERE id = %s AND status = 'stuck'
"""
TOLD = "SELECT name, version, status, direction, step, attempts, error, data FROM sagas WHERE id = %s"
COUNTS = "SELECT status, count(*) FROM sagas GROUP BY status"


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a saga."""

    name: str
    version: int
    status: Status
    place: Place
    attempts: int
    """That the step has failed so far."""
    error: str
    """Of the last that failed."""
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claimed:
    """A saga that is ours, for a while."""

    id: str
    saga: Saga
    data: dict[str, Any]
    place: Place
    in_doubt: bool
    """Somebody may have begun the step, and not come to its end."""
    attempts: int
    fence: int
    late: bool

    @property
    def step(self) -> Step:
        return self.saga.steps[self.place.step]

    @property
    def key(self) -> str:
        return f"{self.id}/{self.step.name}"


class Orchestrator(OverPostgres):
    """Of the sagas in the table `sagas` of the database `dsn`. An `async with` closes its connections."""

    def __init__(
        self,
        dsn: str,
        sagas: Iterable[Saga],
        *,
        lease: float = 10.0,
        base: float = 0.1,
        cap: float = 10.0,
        connections: int = 10,
        random: Callable[[], float] = chance.random,
    ) -> None:
        """Talk to nobody yet. `sagas`: all definitions, also earlier versions, of sagas that are to be advanced.

        `lease`: seconds after which a saga is taken over from one that is silent. `base`, `cap`: seconds between
        attempts; `random` gives 0 ≤ x < 1. Raises `ValueError` for a definition that is there twice, or a step that
        may take longer than the lease: asking and acting, one after the other.
        """
        self._sagas: dict[tuple[str, int], Saga] = {}
        for saga in sagas:
            if self._sagas.setdefault((saga.name, saga.version), saga) is not saga:
                raise ValueError(f"{saga.name} has two definitions of version {saga.version}")
            slowest = max(2 * step.timeout for step in saga.steps)
            if slowest >= lease:
                raise ValueError(f"a step of {saga.name} may take {slowest} s, and be taken over after {lease} s")
        self._lease, self._base, self._cap, self._random = lease, base, cap, random
        silence = str(round(lease * 1000))
        self._connections = Connections(
            dsn, {"idle_in_transaction_session_timeout": silence, "tcp_user_timeout": silence}, most=connections
        )

    async def create(self) -> None:
        """Make the table unless it is there; any number of processes may do so at once."""
        async with self._making("sagas") as session:
            await session.execute(SCHEMA)

    async def start(
        self, saga_id: str, saga: Saga, data: Data, *, tx: AsyncConnection | None = None, done: int = 0
    ) -> bool:
        """Begin a saga, in your transaction if there is one; False, and nothing, if that id has begun before.

        `done`: how many of its steps that transaction itself is: they are not carried out, and undone if it turns back.
        Raises `ValueError` for an empty id, a definition that this orchestrator does not have, or one that has no step
        left.
        """
        if not saga_id or self._sagas.get((saga.name, saga.version)) is not saga:
            raise ValueError(f"no saga {saga_id!r}: {saga.name}, version {saga.version}, is not among the definitions")
        if not 0 <= done < len(saga.steps):
            raise ValueError(f"{done} of the {len(saga.steps)} steps of {saga.name} are done: nothing is left")
        row = (saga_id, saga.name, saga.version, json.dumps(dict(data)), done, saga.within)
        if tx is not None:
            return (await tx.execute(START, row)).rowcount == 1
        async with self._connections.one() as session:
            return (await session.execute(START, row)).rowcount == 1

    async def run_once(self, most: int = AT_ONCE) -> int:
        """Advance what is due, at most so many sagas, side by side, each as far as it goes; returns how many.

        Raises the client's errors after all have come as far as they can; repeating it is safe.
        """
        failures: list[Exception] = []
        claimed = await self._claim(most)
        async with asyncio.TaskGroup() as tasks:
            for ours in claimed:
                tasks.create_task(self._advance(ours, failures.append))
        if failures:
            raise failures[0]
        return len(claimed)

    async def run(self, *, on_error: Callable[[Exception], None], every: float = 0.05, most: int = AT_ONCE) -> None:
        """Advance at most so many sagas at a time until it is cancelled, looking every so many seconds for more.

        One that waits for a slow participant holds up no other. `on_error` is told what goes wrong; while PostgreSQL
        cannot be asked, the next look comes after twice the pause, at most 5 s.
        """
        working: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:

            async def more() -> bool:
                if len(working) >= most:
                    await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                claimed = await self._claim(most - len(working))
                for ours in claimed:
                    task = tasks.create_task(self._advance(ours, on_error))
                    working.add(task)
                    task.add_done_callback(working.discard)
                return bool(claimed)

            await run_loop(more, every=every, on_error=on_error)

    async def _claim(self, most: int) -> list[_Claimed]:
        names, versions = zip(*self._sagas, strict=True) if self._sagas else ((), ())
        async with self._connections.one() as session:
            rows = await (await session.execute(CLAIM, (self._lease, list(names), list(versions), most))).fetchall()
        return [self._claimed(row) for row in rows]

    async def wake(self, saga_id: str) -> bool:
        """Let a saga that pauses go on at once; False if it does not pause.

        If somebody is at it, the pause that may be about to begin is none: a reply can be quicker than the note that it
        is waited for.
        """
        async with self._connections.one() as session:
            row = await (await session.execute(WAKE, (saga_id,))).fetchone()
        return row == (True,)

    async def resume(self, saga_id: str) -> bool:
        """Try again what a stuck saga is stuck at; False if it is not."""
        async with self._connections.one() as session:
            return (await session.execute(RESUME, (saga_id,))).rowcount == 1

    async def told(self, saga_id: str) -> Told:
        """What is known of a saga. Raises `LookupError` for one that was never started."""
        async with self._connections.one() as session:
            row = await (await session.execute(TOLD, (saga_id,))).fetchone()
        if row is None:
            raise LookupError(f"no saga {saga_id!r} was ever started")
        name, version, status, direction, step, attempts, error, data = row
        return Told(name, version, status, Place(direction, step), attempts, error, data)

    async def counts(self) -> dict[Status, int]:
        """How many there are of each status. Watch `stuck`: nobody but you will get them out."""
        async with self._connections.one() as session:
            rows = await (await session.execute(COUNTS)).fetchall()
        return {row[0]: row[1] for row in rows}

    def _claimed(self, row: tuple[Any, ...]) -> _Claimed:
        saga_id, name, version, data, direction, step, in_doubt, attempts, fence, late = row
        return _Claimed(
            id=saga_id,
            saga=self._sagas[name, version],
            data=data,
            place=Place(direction, step),
            in_doubt=in_doubt,
            attempts=attempts,
            fence=fence,
            late=late,
        )

    async def _advance(self, ours: _Claimed, on_error: Callable[[Exception], None]) -> None:
        """Step after step, until it has to wait, has ended, or is not ours any more."""
        try:
            going: _Claimed | None = ours
            while going:
                going = await self._one_step(going)
        except Exception as error:  # of PostgreSQL: the others come as far as they can  # noqa: BLE001, RUF100
            on_error(error)

    async def _one_step(self, ours: _Claimed) -> _Claimed | None:
        turned = ours.saga.before(ours.place, in_doubt=ours.in_doubt, late=ours.late)
        if turned != ours.place:
            return await self._save(ours, turned, error=f"{ours.step.name}: too late")
        outcome, ours, error = await _attempt(ours)
        in_doubt = ours.in_doubt or outcome == "unknown"
        ours = replace(ours, in_doubt=in_doubt, attempts=ours.attempts + 1)
        spent = ours.attempts >= ours.step.attempts
        return await self._save(ours, ours.saga.after(ours.place, outcome, in_doubt=in_doubt, spent=spent), error=error)

    async def _save(self, ours: _Claimed, then: Place | Status, *, error: str) -> _Claimed | None:
        """Write down what comes next, and that it begins; None when it is not for us, or not now."""
        place = then if isinstance(then, Place) else ours.place
        moves = place != ours.place
        pauses = then == ours.place
        values = {
            "id": ours.id,
            "fence": ours.fence,
            "status": "running" if isinstance(then, Place) else then,
            "direction": place.direction,
            "step": place.step,
            "data": json.dumps(ours.data),
            "begun": moves or ours.in_doubt,
            "attempts": 0 if moves else ours.attempts,
            "error": error,
            "held": moves,
            "pause": self._pause(ours) if pauses else self._lease,
        }
        async with self._connections.one() as session:
            row = await (await session.execute(SAVE, values)).fetchone()
        if row is None or not moves:
            return None
        return replace(ours, place=place, in_doubt=False, attempts=0, late=row[0])

    def _pause(self, ours: _Claimed) -> float:
        base = self._base if ours.step.base is None else ours.step.base
        return self._random() * min(self._cap, base * 2.0 ** min(ours.attempts - 1, STEEPEST))


async def _attempt(ours: _Claimed) -> tuple[Outcome, _Claimed, str]:
    """Find out, or do, or undo: what came of it, with what it has added, and the error."""
    step = ours.step
    call, ask = step.act, step.ask
    if ours.place.direction == "back":
        assert step.undo
        call, ask = step.undo, None
    try:
        there = await _within(step.timeout, ask, ours) if ask and ours.in_doubt else None
        if there is None:
            there = await _within(step.timeout, call, ours)
    except StepRefused as error:
        return "refused", replace(ours, data={**ours.data, **error.told}), f"{step.name}: {error}"
    except NotTried as error:
        return "not tried", ours, f"{step.name}: {error}"
    except Exception as error:  # whatever a participant's client raises: it may have happened  # noqa: BLE001, RUF100
        return "unknown", ours, f"{step.name}: {type(error).__name__}: {error}"
    return "done", replace(ours, data={**ours.data, **(there or {})}), ""


async def _within(seconds: float, call: Call, ours: _Claimed) -> Data | None:
    async with deadline(seconds):
        return await call(ours.key, ours.data)
