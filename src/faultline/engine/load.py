"""A busy machine on purpose: one process a core that wants the processor all the time."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Every core has a competitor during the block."""
    burn = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
    burners = [subprocess.Popen([sys.executable, "-S", "-c", burn]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
