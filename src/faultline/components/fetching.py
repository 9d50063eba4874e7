"""Folders that are made once: complete or not there, whoever else tries, whenever somebody is killed."""

import asyncio
import errno
import fcntl
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from time import monotonic

from faultline.components import processes
from faultline.components.errors import Unavailable

ROOM = "make room (./lab clean shows what can go)"
ADVICE = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: "make it writable, or move the clone",
    errno.EACCES: "make it writable for this user, or move the clone",
    errno.EPERM: "make it writable for this user, or move the clone",
}
OFFLINE = re.compile(
    r"dns error|unknown host|name resolution|client error \(connect\)|connection (refused|reset|timed out)|"
    r"network is unreachable|no route to host|timed out",
    re.IGNORECASE,
)
REDRAWN = 0.5
REPEATED = 10.0


async def once(target: Path, build: Callable[[Path], Awaitable[None]]) -> None:
    """Make `target` by filling a draft beside it, unless it is there; returns when it is.

    Processes that want the same folder wait for the first. A build that fails or is killed leaves no target, and
    its draft is removed by the next. Raises `Unavailable` where the disk is full or may not be written to.
    """
    if target.is_dir():  # noqa: ASYNC240 -- a look at a local folder, here and below
        return
    with _disk_trouble(target.parent):
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


@asynccontextmanager
async def announced(what: str, *, far: Callable[[], str] = str, drawn: bool = False) -> AsyncIterator[None]:
    """Say on standard error that something is being fetched, how far it is, and at the end how long it took.

    `far` answers in a few words. A terminal has one line that changes, anything else a new line every 10 s; with
    `drawn` somebody else draws, and only beginning and end are said.
    """
    begun, terminal = monotonic(), sys.stderr.isatty()
    print(f"fetching {what} (once)...", file=sys.stderr, flush=True)

    async def tell() -> None:
        while not drawn:
            await asyncio.sleep(REDRAWN if terminal else REPEATED)
            line = f"  {what}: {far() or 'still at it'}, {monotonic() - begun:.0f} s"
            print(f"\r\x1b[2K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    teller = asyncio.create_task(tell())
    try:
        yield
    finally:
        teller.cancel()
        with suppress(asyncio.CancelledError):
            await teller
        if terminal and not drawn:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
    print(f"fetched {what} in {monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


def failed(what: str, client: str, said: str) -> Unavailable:
    """The error for a client that gave up: its last words, and what to do about the usual reasons."""
    if "no space left on device" in said.lower():
        return Unavailable(f"could not fetch {what}: the disk is full; {ROOM}. {client} said:\n{said}")
    if OFFLINE.search(said):
        kept = "run the same command again when there is one, what came through is kept"
        return Unavailable(f"could not fetch {what}: no network, it seems; {kept}. {client} said:\n{said}")
    return Unavailable(f"could not fetch {what}: {client} said:\n{said or 'see above'}")


@contextmanager
def _disk_trouble(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        where = error.filename or folder
        raise Unavailable(f"cannot write to {where}: {error.strerror}; {ADVICE[error.errno]}") from error


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
