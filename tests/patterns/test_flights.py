"""What callers of one process share, and what they do not."""

from __future__ import annotations

import asyncio

from faultline.patterns import Flights


class Runway:
    """Flights that end when they are told to."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def fly(self) -> str:
        self.started += 1
        try:
            return await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)  # it has something to put in order
            raise


async def begun(flights: Flights[str], runway: Runway, count: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(flights.join("hat", runway.fly)) for _ in range(count)]
    while not runway.started:  # noqa: ASYNC110 - the loop's own turn is what we wait for
        await asyncio.sleep(0)
    return tasks


async def test_all_share_the_outcome_and_the_next_one_starts_anew() -> None:
    flights: Flights[str] = Flights()
    runway = Runway()
    tasks = await begun(flights, runway, 5)

    runway.outcome.set_result("there")

    assert await asyncio.gather(*tasks) == ["there"] * 5
    assert "hat" not in flights
    assert await flights.join("hat", runway.fly) == "there"
    assert runway.started == 2


async def test_an_exception_reaches_all() -> None:
    flights: Flights[str] = Flights()
    runway = Runway()
    tasks = await begun(flights, runway, 3)

    runway.outcome.set_exception(LookupError("gone"))

    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["gone"] * 3
    assert "hat" not in flights


async def test_a_cancelled_caller_takes_nobody_along() -> None:
    flights: Flights[str] = Flights()
    runway = Runway()
    first, *others = await begun(flights, runway, 3)

    first.cancel()
    await asyncio.wait([first])
    runway.outcome.set_result("there")

    assert first.cancelled()
    assert await asyncio.gather(*others) == ["there"] * 2
    assert (runway.started, runway.cancelled) == (1, 0)


async def test_the_last_caller_ends_the_flight_before_he_has_ended() -> None:
    flights: Flights[str] = Flights()
    runway = Runway()
    tasks = await begun(flights, runway, 2)

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

    assert runway.cancelled == 1
    assert "hat" not in flights
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "load hat"]


async def test_whoever_comes_while_a_given_up_flight_ends_starts_anew() -> None:
    flights: Flights[str] = Flights()
    runway = Runway()
    [only] = await begun(flights, runway, 1)
    only.cancel()
    await asyncio.sleep(0)

    fresh = asyncio.create_task(flights.join("hat", runway.fly))
    await asyncio.wait([only])
    runway.outcome.set_result("there")

    assert await fresh == "there"
    assert runway.started == 2


async def test_nobody_joins_what_was_dropped() -> None:
    flights: Flights[str] = Flights()
    old, new = Runway(), Runway()
    [early] = await begun(flights, old, 1)

    flights.drop("hat")
    flights.drop("hat")
    [late] = await begun(flights, new, 1)
    old.outcome.set_result("old")
    assert await early == "old"
    assert "hat" in flights, "the old flight has taken the new one along"
    new.outcome.set_result("new")

    assert await late == "new"
    assert "hat" not in flights
