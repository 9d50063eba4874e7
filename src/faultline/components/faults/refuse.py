"""Nobody listens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from faultline.components.faults.direction import Direction
from faultline.components.faults.fault import Fault


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """New connections are refused (ECONNREFUSED): the port is closed, and the same port is opened again on heal.

    Open connections go on; add `Reset` to end them too. The kernel refuses without telling us, so `hits` is its
    own count of failed connects on this machine (Linux) since the fault was added: never too low, but another
    program's failed connect counts too. Where that matters, look also at what the client got.
    """

    usual: ClassVar[Direction] = Direction.BOTH
    refuses: ClassVar[bool] = True

    def meter(self) -> Callable[[], int]:
        """Connects that failed on this machine since it started."""
        return _failed_connects


def _failed_connects() -> int:
    lines = Path("/proc/self/net/snmp").read_text(encoding="ascii").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("AttemptFails")])
