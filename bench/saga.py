"""Our sagas beside DBOS, on a PostgreSQL that flushes each commit, with that many bare commits as the limit.

    python -m bench.saga

Starts its own server; takes about a minute. Goals, SG1: a saga of three steps takes at most 1.5 times its five commits;
of sagas whose process is killed before and after each effect none is lost, and no effect is there twice.
"""

import asyncio
import logging
import os
import random
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import psycopg
from bench.interleave import compare, goal, machine, table
from dbos import DBOS
from psycopg.conninfo import conninfo_to_dict

from faultline.components import Supervisor
from faultline.patterns import Orchestrator, Saga, Step
from faultline.patterns.saga import Call, Data

RAW, OURS, PEER = "raw, 5 commits", "faultline", "DBOS"
RATIO = 1.5
CALLS, ROUNDS = 10, 30
STEPS = ("reserve", "capture", "confirm")
SIDES = ("before", "after")
LEASE, TIMEOUT = 1.0, 0.4
EFFECTS = """
CREATE TABLE effect (key text PRIMARY KEY, saga text NOT NULL, step text NOT NULL);
CREATE TABLE asked (key text NOT NULL);
"""


async def nothing(_key: str, _data: Data) -> None:
    """A participant that costs nothing: what is left is the saga's own."""


def checkout(*acts: Call) -> Saga:
    """Three steps: one that can be undone, the pivot, and one that is retried."""
    reserve, capture, confirm = acts
    return Saga(
        "checkout",
        version=1,
        steps=(
            Step(STEPS[0], act=reserve, undo=nothing, timeout=TIMEOUT),
            Step(STEPS[1], act=capture, kind="pivot", timeout=TIMEOUT),
            Step(STEPS[2], act=confirm, kind="retriable", timeout=TIMEOUT),
        ),
    )


async def costs(raw: psycopg.AsyncConnection, url: str) -> bool:
    """One saga after the other, with steps that do nothing."""
    await raw.execute("CREATE TABLE plain (id bigserial PRIMARY KEY, step int NOT NULL, data jsonb NOT NULL)")
    saga = checkout(nothing, nothing, nothing)
    async with Orchestrator(url, [saga], lease=LEASE) as orchestrator:
        await orchestrator.create()
        number = 0

        async def bare() -> None:
            row = await (
                await raw.execute("INSERT INTO plain (step, data) VALUES (0, '{\"order\": 1}') RETURNING id")
            ).fetchone()
            for step in range(1, 5):
                await raw.execute("UPDATE plain SET step = %s, data = %s WHERE id = %s", [step, "{}", row and row[0]])

        async def ours() -> None:
            nonlocal number
            number += 1
            await orchestrator.start(f"cost-{number}", saga, {"order": number})
            assert await orchestrator.run_once() == 1

        async def theirs() -> None:
            await workflow(1)

        workflow = launched(url)
        found = await compare(
            {RAW: bare, OURS: ours, PEER: theirs}, base=RAW, calls=CALLS, rounds=ROUNDS, chance=random.Random(5)
        )
        DBOS.destroy()
        counts = await orchestrator.counts()
    print(f"\nSG1  a saga of 3 steps, flushed to the disk: us, median of {ROUNDS} rounds of {CALLS}; ratio to raw")
    table(found)
    complete = goal(f"SG1 all {number} are done", counts == {"done": number})
    return goal(f"SG1 x{found[OURS].ratio:.2f} <= x{RATIO}", found[OURS].ratio <= RATIO) and complete


def launched(url: str) -> Callable[[int], Awaitable[int]]:
    """DBOS on the same server, and a workflow of three steps."""
    place = conninfo_to_dict(url)
    database = f"postgresql+psycopg://{place['user']}@{place['host']}:{place['port']}/dbos"
    DBOS(config={"name": "bench", "system_database_url": database, "log_level": "CRITICAL"})

    @DBOS.step()
    async def step(number: int) -> int:
        return number

    @DBOS.workflow()
    async def workflow(number: int) -> int:
        return await step(number) + await step(number) + await step(number)

    DBOS.launch()
    return workflow


async def killed(raw: psycopg.AsyncConnection, url: str) -> bool:
    """A process that carries a saga out dies at each place; another one finishes it."""
    await raw.execute(EFFECTS)
    places = [f"{side}-{step}" for step in STEPS for side in SIDES]
    for place in places:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.saga", "die", url, place)
        assert await process.wait() == -signal.SIGKILL
    saga = acting(raw, place="")
    async with Orchestrator(url, [saga], lease=LEASE) as orchestrator, asyncio.timeout(30):
        while (await orchestrator.counts()).get("running"):
            await orchestrator.run_once()
            await asyncio.sleep(0.05)
        ended = {place: (await orchestrator.told(f"die-{place}")).status for place in places}
    row = await (await raw.execute("SELECT (SELECT count(*) FROM effect), (SELECT count(*) FROM asked)")).fetchone()
    assert row
    effects, asked = row
    print(f"\nSG1  killed before and after each effect: {len(places)} sagas, {asked} requests, {effects} effects")
    lost = [place for place, status in ended.items() if status != "done"]
    whole = goal(f"SG1 {len(lost)} lost", not lost)
    return goal(f"SG1 {effects} effects of {len(places) * len(STEPS)}", effects == len(places) * len(STEPS)) and whole


def acting(raw: psycopg.AsyncConnection, place: str) -> Saga:
    """Each step's effect is a row, once a key; `place` is where its process dies."""

    def act(name: str) -> Call:
        async def call(key: str, _data: Data) -> None:
            if place == f"before-{name}":
                os.kill(os.getpid(), signal.SIGKILL)
            await raw.execute("INSERT INTO asked VALUES (%s)", [key])
            await raw.execute(
                "INSERT INTO effect VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [key, key.partition("/")[0], name]
            )
            if place == f"after-{name}":
                os.kill(os.getpid(), signal.SIGKILL)

        return call

    return checkout(*(act(name) for name in STEPS))


async def die(url: str, place: str) -> None:
    """Begin a saga, and die in it."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as raw:
        saga = acting(raw, place)
        async with Orchestrator(url, [saga], lease=LEASE) as orchestrator:
            await orchestrator.start(f"die-{place}", saga, {})
            await orchestrator.run_once(1)


async def main() -> bool:
    """Whether the goals are met."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user  # noqa: ASYNC240
        async with Supervisor(folder / "servers") as supervisor:
            postgres = await supervisor.start("postgres")
            async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as raw:
                row = await (await raw.execute("SHOW server_version")).fetchone()
                assert row
                print(
                    f"{machine()}\nPostgreSQL {row[0]}, fsync on, psycopg {version('psycopg')}, dbos {version('dbos')}"
                )
                met = [await costs(raw, postgres.url), await killed(raw, postgres.url)]
    print(machine())
    return all(met)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    match sys.argv[1:]:
        case ["die", url, place]:
            asyncio.run(die(url, place))
        case _:
            sys.exit(not asyncio.run(main()))
