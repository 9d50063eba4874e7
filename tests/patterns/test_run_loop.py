"""What the loop promises that others rely on."""

from __future__ import annotations

import asyncio

import pytest

from faultline.patterns.run_loop import run_loop


async def test_a_swallowed_cancellation_ends_it_all_the_same() -> None:
    inside, told = asyncio.Event(), list[Exception]()

    async def swallow() -> bool:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return False
        return True

    running = asyncio.create_task(run_loop(swallow, every=60, on_error=told.append))
    await inside.wait()
    running.cancel()
    async with asyncio.timeout(10):  # at once: not after the pause either
        await asyncio.wait([running])
    assert running.cancelled()
    assert told == []


async def test_a_cancellation_that_was_dealt_with_before_is_not_counted() -> None:
    rounds = 0

    async def count() -> bool:
        nonlocal rounds
        rounds += 1
        return rounds < 3

    async def tidy_up() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await run_loop(count, every=60, on_error=print)

    tidying = asyncio.create_task(tidy_up())
    await asyncio.sleep(0)
    tidying.cancel()
    async with asyncio.timeout(10):
        while rounds < 3:  # noqa: ASYNC110 - nobody is called when a round is over
            await asyncio.sleep(0)
    tidying.cancel()
    await asyncio.wait([tidying])
    assert tidying.cancelled()


async def test_it_goes_on_after_errors_with_longer_and_longer_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, told, rounds, sleep = list[float](), list[str](), 0, asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def work() -> bool:
        nonlocal rounds
        rounds += 1
        if rounds == 13:
            await asyncio.Event().wait()
        if 2 < rounds < 11:
            raise ConnectionError(str(rounds))
        return rounds == 2

    monkeypatch.setattr(asyncio, "sleep", noted)
    running = asyncio.create_task(run_loop(work, every=0.1, on_error=lambda error: told.append(str(error))))
    while rounds < 13:
        await sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert told == [str(number) for number in range(3, 11)]
    assert pauses == pytest.approx([0.1, 0, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 0.1, 0.1])
