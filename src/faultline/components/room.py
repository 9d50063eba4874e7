"""Whether there is room to begin with: better refused at once than broken in the middle."""

import os
import tempfile
from pathlib import Path

ENOUGH = 8 * 2**20
"""Bytes that the logs, records and data of a few small servers fit into."""


def require_room(folder: Path) -> None:
    """Make the folder, and show that so much can be written there; raises the `OSError` that the system gave."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            os.posix_fallocate(trial.fileno(), 0, ENOUGH)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(folder)) from error
