"""How busy the machine is: kept busy on purpose, or as busy as it can be while what runs on it is in time."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROCESSORS = os.cpu_count() or 1
LOOK = 0.2  # seconds over which the processors are watched, so that who has just begun is seen
IDLE = 0.2  # of that time, in which there is room for one more
LEAST = 2  # runs a processor, however busy: they wait nearly half of the time
MOST = 4  # runs a processor: each has servers of its own, and memory is no matter of idleness


class Room:
    """How many runs the machine has room for: two a processor, and one more as often as these were idle meanwhile.

    Most runs of a proof wait, for a lease to end or for somebody who hangs. Some do not, and too many of these at once
    would be late, and be called wrong for it.
    """

    def __init__(self, exactly: int | None = None) -> None:
        """`exactly`: so many, whatever the processors do."""
        self.most = exactly or MOST * PROCESSORS
        self._least = exactly or LEAST * PROCESSORS
        self._seen = _times()
        self._at = time.monotonic()

    def one_more(self, running: int) -> bool:
        """Whether another run may begin beside so many; who asks and is told so begins it."""
        if running < self._least:
            return True
        if running >= self.most or time.monotonic() - self._at < LOOK:
            return False
        before, self._seen, self._at = self._seen, _times(), time.monotonic()
        passed, idle = (now - then for now, then in zip(self._seen, before, strict=True))
        return passed > 0 and idle / passed >= IDLE


def _times() -> tuple[int, int]:
    """All time of all processors, and that in which they had nothing to do, since the machine began; in ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Every core has a competitor during the block."""
    burn = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
    burners = [subprocess.Popen([sys.executable, "-S", "-c", burn]) for _ in range(PROCESSORS)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
