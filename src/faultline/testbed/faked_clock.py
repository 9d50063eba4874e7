"""The wall clock of servers, moved by the check: keys run out, tokens grow old, clocks go back, and nobody waits.

A server that is started with it loads libfaketime, which adds an offset to what the kernel says the time of day is.
The offset is in a file that the library reads each time anew, so its clock runs on, and jumps when the check writes
there. Monotonic clocks, and the times of files, stay as they are.

```
clock = await testbed.faked_clock()
redis = await testbed.redis(clock=clock)
...
await clock.advance(30 * 86_400)      # every key with 30 days to live has run out
```
"""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from faultline.components import Instance
from faultline.testbed.errors import TestbedError
from faultline.testbed.history import History
from faultline.testbed.until import until

_SLACK = 0.001  # seconds between two questions for the time that are one
_SHARED = Path("/dev/shm")  # noqa: S108 -- where the library puts it
_NAMES = ("faketime_shm_{}", "sem.faketime_sem_{}")  # in this order: without the first, the second does no harm


class Clocked(Protocol):
    """A server that can be asked what time it is."""

    @property
    def instance(self) -> Instance:
        """The server."""
        ...

    async def wall_clock(self) -> float:
        """Unix seconds, as it sees them."""
        ...


class FakedClock:
    """What the servers that were started with it take for the time of day; `Testbed.faked_clock` makes one."""

    def __init__(self, file: Path, library: Path, history: History) -> None:
        self.offset = 0.0
        self.moves = 0  # that a server has confirmed
        self._file = file
        self._library = library
        self._history = history
        self._servers = list[Clocked]()
        self._write()

    @property
    def environment(self) -> Mapping[str, str]:
        """What a server must be started with."""
        beside = os.environ.get("LD_LIBRARY_PATH")
        return {
            # By name, since a path with a blank in it cannot be named there. The C library is put before the
            # program's own: a jemalloc that is one asks for the time while libfaketime is not ready to tell it.
            "LD_PRELOAD": f"{self._library.name}:libc.so.6",
            "LD_LIBRARY_PATH": f"{self._library.parent}:{beside}" if beside else str(self._library.parent),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    @property
    def now(self) -> datetime:
        """The time of day there."""
        return datetime.fromtimestamp(time.time() + self.offset, UTC)

    async def advance(self, seconds: float) -> None:
        """Let so much time pass at once, or with a minus go back.

        Returns when every one of its servers has said that its clock has moved, those that stand still or are killed
        excepted; `TestbedError` if one does not. A transaction of PostgreSQL that is open keeps its `now()`.
        """
        self.offset += seconds
        self._write()
        self._history.note("clock", f"moved by {seconds:+g} s")
        asked = [await self.confirm(server) for server in self._servers]
        self.moves += any(asked)

    async def set(self, now: datetime) -> None:
        """Let it be that instant; it runs on from there."""
        await self.advance((now - self.now).total_seconds())

    async def started(self, server: Clocked) -> None:
        """That server was started with this clock (again)."""
        if server not in self._servers:
            self._servers.append(server)
        for name in _NAMES:  # by which the library's own processes find each other at their start; a kill leaves them
            (_SHARED / name.format(server.instance.pid)).unlink(missing_ok=True)
        await self.confirm(server)

    async def confirm(self, server: Clocked) -> bool:
        """Return once the server's clock is where this one is; False if it cannot say."""
        if server.instance.paused or not server.instance.alive:
            return False
        try:
            await until(lambda: self._agrees(server), f"the clock of {server.instance.name} had moved")
        except TestbedError as error:
            program = server.instance.record.program
            raise TestbedError(f"{error}: {program} loads no libfaketime (linked statically?)") from error
        return True

    async def _agrees(self, server: Clocked) -> bool:
        before = time.time()
        said = await server.wall_clock()
        return before - _SLACK <= said - self.offset <= time.time() + _SLACK

    def _write(self) -> None:
        draft = self._file.with_suffix(".draft")
        draft.write_text(f"{self.offset:+.6f}\n")
        draft.rename(self._file)  # never half there
