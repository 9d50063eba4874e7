"""A clock that the check sets: the learner's code gets it as its `clock: Callable[[], float]`.

It lies in a file that is mapped into both processes, so reading it is an ordinary function call and any number of
processes see the same instant at once.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from faultline.testbed.wire import ClockAt

_SET = struct.Struct("@qd")  # how often it was set, its time in seconds; aligned, so neither is ever half there
_SEEN = struct.Struct("@q")  # the setting that was read last
_SIZE = _SET.size + _SEEN.size


class InjectedClock:
    """Stands still until `advance` or `set`; `Testbed.clock` makes one."""

    name = "clock"

    def __init__(self, file: Path, start: float) -> None:
        file.write_bytes(_SET.pack(0, start) + _SEEN.pack(-1))
        self._file = file
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), _SIZE)

    @property
    def at(self) -> ClockAt:
        """How it travels."""
        return ClockAt(str(self._file))

    @property
    def now(self) -> float:
        """Seconds, as the learner's code reads them."""
        return float(_SET.unpack_from(self._memory)[1])

    @property
    def settings(self) -> int:
        """How often it was set."""
        return int(_SET.unpack_from(self._memory)[0])

    @property
    def was_read(self) -> bool:
        """Whether the learner's code has read it since it was set last."""
        return bool(_SEEN.unpack_from(self._memory, _SET.size)[0] == self.settings)

    def set(self, now: float) -> None:
        """Let it be so late; also backwards, as wall clocks go."""
        _SET.pack_into(self._memory, 0, self.settings + 1, now)

    def advance(self, seconds: float) -> None:
        """Let so much time pass, at once."""
        self.set(self.now + seconds)

    def close(self) -> None:
        """Let go of the file."""
        self._memory.close()


def clock_at(at: ClockAt) -> Callable[[], float]:
    """The learner's end: a function that reads it."""
    with Path(at.path).open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), _SIZE)

    def clock() -> float:
        setting, now = _SET.unpack_from(memory)
        _SEEN.pack_into(memory, _SET.size, setting)
        return float(now)

    return clock
