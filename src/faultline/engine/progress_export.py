"""Progress as one JSON file: to keep a copy, or to carry it to another machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from faultline.engine.atomic_write import write_atomically
from faultline.engine.errors import BadExport, NotWritten
from faultline.engine.progress import Attempt, HintShown, Record, SolutionShown, Started

VERSION = 1
_INSTEAD = "name a file that `./lab progress export` wrote"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    format: Literal["faultline-progress"]
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    format: Literal["faultline-progress"] = "faultline-progress"
    version: int = VERSION
    attempts: tuple[Attempt, ...]
    started: tuple[Started, ...]
    hints: tuple[HintShown, ...]
    solutions: tuple[SolutionShown, ...]


def write_export(path: Path, records: tuple[Record, ...]) -> None:
    """Write all records to `path`; replaces an earlier export, and refuses to replace any other file."""
    if path.exists():
        try:
            read_export(path)
        except BadExport as error:
            raise NotWritten(f"{path} is there and is not an export, so it was left alone; name another") from error
    export = _Export(
        attempts=tuple(record for record in records if isinstance(record, Attempt)),
        started=tuple(record for record in records if isinstance(record, Started)),
        hints=tuple(record for record in records if isinstance(record, HintShown)),
        solutions=tuple(record for record in records if isinstance(record, SolutionShown)),
    )
    write_atomically(path, msgspec.json.format(msgspec.json.encode(export), indent=2).decode() + "\n")


def read_export(path: Path) -> tuple[Record, ...]:
    """The records in an export, or `BadExport` with the place that is wrong."""
    try:
        text = path.read_bytes()
        header = msgspec.json.decode(text, type=_Header)
        if header.version > VERSION:
            raise BadExport(
                f"{path} was exported by a newer Faultline (its version is {header.version}, this one knows"
                f" {VERSION});"
                " update this clone with git pull, then import again"
            )
        export = msgspec.json.decode(text, type=_Export)
    except OSError as error:
        raise BadExport(f"{path} cannot be read: {error.strerror}; {_INSTEAD}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadExport(f"{path} is no export: {error}; {_INSTEAD}") from error
    return (*export.attempts, *export.started, *export.hints, *export.solutions)
