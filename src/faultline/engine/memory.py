"""What earlier proofs have found: one row a run in a SQLite file, under the hash of all that the run depended on.

A run is kept as soon as it has ended, so a proof that was interrupted, by Ctrl-C or by kill -9, goes on where it was.
The file is a cache: one that cannot be read is begun anew, and `lab clean` may remove it.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from faultline.engine.errors import NotRemembered
from faultline.engine.grades import Grade
from faultline.engine.verdicts import Began, Ended, Judged

_BUSY_TIMEOUT = 30.0  # seconds that a call waits for another proof's transaction
_KEPT_FOR = timedelta(days=120)
_VERSION = 1
_TABLE = "CREATE TABLE IF NOT EXISTS runs (key TEXT NOT NULL, at TEXT NOT NULL, grade BLOB NOT NULL) STRICT"
_INDEX = "CREATE INDEX IF NOT EXISTS by_key ON runs (key)"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one case: what came of it, and when."""

    at: datetime
    grade: Grade


class _Row(msgspec.Struct, frozen=True):
    began: Began
    judged: list[Judged]
    ended: Ended


class Memory:
    """The runs that are remembered in one file; every call is a transaction of its own.

    Raises `NotRemembered` where the folder or the disk is in the way.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._told():
            try:
                self._prepare()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                path.unlink()  # no database, or no longer one: it is only a cache
                self._prepare()

    def runs(self, key: str) -> list[Run]:
        """All runs of this key, oldest first."""
        with self._told(), closing(self._connected()) as file:
            rows = file.execute("SELECT at, grade FROM runs WHERE key = ? ORDER BY rowid", (key,)).fetchall()
        found: list[Run] = []
        for at, text in rows:
            row = msgspec.json.decode(text, type=_Row)
            found.append(
                Run(datetime.fromisoformat(at), Grade(row.began.seed, row.began.checks, row.judged, row.ended))
            )
        return found

    def keep(self, key: str, run: Run) -> None:
        """Remember a run that came to its end."""
        assert run.grade.ended is not None
        judged = [msgspec.structs.replace(one, picture="", printed="", look="") for one in run.grade.judged]
        row = _Row(Began(run.grade.seed, run.grade.checks), judged, run.grade.ended)
        with self._told(), closing(self._connected()) as file, file:
            file.execute("INSERT INTO runs VALUES (?, ?, ?)", (key, run.at.isoformat(), msgspec.json.encode(row)))

    def forget(self, key: str) -> None:
        """Forget all runs of this key."""
        with self._told(), closing(self._connected()) as file, file:
            file.execute("DELETE FROM runs WHERE key = ?", (key,))

    def _prepare(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connected()) as file, file:
            (version,) = file.execute("PRAGMA user_version").fetchone()
            if version not in {0, _VERSION}:
                file.execute("DROP TABLE IF EXISTS runs")
            file.execute(_TABLE)
            file.execute(_INDEX)
            file.execute(f"PRAGMA user_version = {_VERSION}")
            file.execute("DELETE FROM runs WHERE at < ?", ((datetime.now(UTC) - _KEPT_FOR).isoformat(),))

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
            raise NotRemembered(
                f"{self._path}, where results of the proof are kept, cannot be used: {error}; "
                "make room or mend its permissions, or remove it: what it holds is only quicker than running again"
            ) from error
