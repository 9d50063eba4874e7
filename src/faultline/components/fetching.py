"""Folders that are made once: complete or not there, whoever else tries, whenever somebody is killed."""

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from faultline.components import processes


async def once(target: Path, build: Callable[[Path], Awaitable[None]]) -> None:
    """Make `target` by filling a draft beside it, unless it is there; returns when it is.

    Processes that want the same folder wait for the first. A build that fails or is killed leaves no target, and
    its draft is removed by the next.
    """
    if target.is_dir():  # noqa: ASYNC240 -- a look at a local folder, here and below
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    async with _alone(target.with_name(f".{target.name}.lock")):
        if target.is_dir():  # noqa: ASYNC240
            return
        draft = target.with_name(f".{target.name}.draft")
        await _clear(draft)
        draft.mkdir(mode=0o700)
        try:
            await build(draft)
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


async def sweep_drafts(folder: Path) -> None:
    """End who still fills a draft whose maker was killed, and remove it; one that is being made is left alone."""
    for draft in folder.glob(".*.draft"):  # noqa: ASYNC240
        with draft.with_suffix(".lock").open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            await _clear(draft)


async def _clear(draft: Path) -> None:
    await processes.kill(processes.Kin(draft, program="", leader=None))
    shutil.rmtree(draft, ignore_errors=True)


@asynccontextmanager
async def _alone(lock: Path) -> AsyncIterator[None]:
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.05)
        yield
