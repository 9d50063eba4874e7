"""Being ended by the kernel when the parent ends, however that came about."""

import ctypes
import os
from signal import Signals

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: Signals, *, parent: int) -> None:
    """Have the kernel send this process `number` when its parent dies; if it is dead already, get it now.

    `parent` is the pid that was read before the fork: asking afterwards would miss a parent that died in between.
    The kernel watches the thread that forked; it does not hand the setting on to a child of this process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
