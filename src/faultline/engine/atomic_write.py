"""Writing a whole file so that a reader, or a crash, finds the old one or the new one and never a part."""

import os
import tempfile
from pathlib import Path

from faultline.engine.errors import NotWritten


def write_atomically(path: Path, text: str) -> None:
    """Put `text` at `path`, making its folder; on `NotWritten` what was there is still whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritten(
            f"{path} was not written: {error.strerror}; make room or make it writable, then try again"
        ) from error
