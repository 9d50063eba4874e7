"""The learner's progress on disk: one SQLite file that survives kill -9 at any moment.

Every call opens the file, does one transaction and closes it, so that nothing is held between two commands
and several processes can write at once. The rollback journal is used rather than a write-ahead log: the file
is complete in itself once a call has returned, and can be read from a read-only folder.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faultline.engine.errors import ProgressDamaged, ProgressError, ProgressTooNew, ProgressUnavailable
from faultline.engine.progress import (
    Attempt,
    HintShown,
    ModuleProgress,
    Outcome,
    Progress,
    Record,
    SolutionShown,
    Started,
)

LONGEST_PATH = 500  # bytes; SQLite's own limit is 512, and its journal has a longer name
BUSY_TIMEOUT = 10.0  # seconds that a call waits for another process's transaction

# Each entry brings the file from the version of its index to the next; append only.
MIGRATIONS: list[tuple[str, ...]] = [
    (
        """CREATE TABLE attempts (
            id TEXT PRIMARY KEY, module TEXT NOT NULL, at TEXT NOT NULL, outcome TEXT NOT NULL,
            seconds REAL NOT NULL, checks_passed INTEGER NOT NULL, checks_total INTEGER NOT NULL,
            seed INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        "CREATE TABLE starts (module TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE hints (
            module TEXT NOT NULL, number INTEGER NOT NULL, at TEXT NOT NULL, PRIMARY KEY (module, number)
        ) STRICT, WITHOUT ROWID""",
        "CREATE TABLE solutions (module TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT, WITHOUT ROWID",
    ),
]

_INSERTS: dict[type[Record], str] = {
    Attempt: """INSERT INTO attempts (id, module, at, outcome, seconds, checks_passed, checks_total, seed)
        VALUES (:id, :module, :at, :outcome, :seconds, :checks_passed, :checks_total, :seed)
        ON CONFLICT (id) DO NOTHING""",
    Started: """INSERT INTO starts (module, at) VALUES (:module, :at)
        ON CONFLICT (module) DO UPDATE SET at = excluded.at WHERE excluded.at < at""",
    HintShown: """INSERT INTO hints (module, number, at) VALUES (:module, :number, :at)
        ON CONFLICT (module, number) DO UPDATE SET at = excluded.at WHERE excluded.at < at""",
    SolutionShown: """INSERT INTO solutions (module, at) VALUES (:module, :at)
        ON CONFLICT (module) DO UPDATE SET at = excluded.at WHERE excluded.at < at""",
}

_INSTANTS = ("passed_at", "started_at", "touched_at", "solution_shown_at")
_BY_MODULE = """
    SELECT module, sum(tries) AS tries, sum(hints) AS hints,
           min(passed) AS passed_at, min(started) AS started_at,
           max(touched) AS touched_at, min(solution) AS solution_shown_at
    FROM (
        SELECT module, count(*) AS tries, 0 AS hints, min(CASE outcome WHEN 'passed' THEN at END) AS passed,
               NULL AS started, max(at) AS touched, NULL AS solution FROM attempts GROUP BY module
        UNION ALL SELECT module, 0, 0, NULL, at, at, NULL FROM starts
        UNION ALL SELECT module, 0, count(*), NULL, NULL, max(at), NULL FROM hints GROUP BY module
        UNION ALL SELECT module, 0, 0, NULL, NULL, at, at FROM solutions
    )
    GROUP BY module"""

_OBSTACLES = {
    "SQLITE_FULL": "the disk is full; free some space and try again",
    "SQLITE_READONLY": "the file or its folder is read-only; make both writable and try again",
    "SQLITE_CANTOPEN": "it cannot be opened or made; check who owns it and its folder, and try again",
    "SQLITE_PERM": "it may not be opened; check who owns it and its folder, and try again",
    "SQLITE_BUSY": f"another process has held it for {BUSY_TIMEOUT:.0f} s; end that process or try again",
    "SQLITE_IOERR": "the disk reports an error; check the disk and try again",
}


class ProgressFile:
    """The progress kept in one file; a record that `add` has returned for is never lost to a kill.

    Reading makes no file and no folder. Several processes may read and write at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_clone(cls, root: Path) -> "ProgressFile":
        """The learner's own, in the state folder of the clone at `root`."""
        return cls(root / ".lab" / "progress.db")

    def add(self, records: Iterable[Record]) -> int:
        """Record all of them or none; return how many said something new.

        Records that are there already are left out, so adding twice is adding once.
        """
        with self._explained("progress was not recorded"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened("rwc") as database, _transaction(database, "IMMEDIATE"):
                self._upgrade(database)
                return sum(database.execute(_INSERTS[type(record)], _row(record)).rowcount for record in records)

    def read(self) -> Progress:
        """What the records say about each module."""
        with self._explained("progress was not read"), self._reading() as database:
            return Progress({row["module"]: _summary(row) for row in database.execute(_BY_MODULE)})

    def records(self) -> tuple[Record, ...]:
        """Every record of one moment, oldest first."""
        with self._explained("progress was not read"), self._reading() as database:
            found: list[Record] = [
                *(Attempt(**_fields(row)) for row in database.execute("SELECT * FROM attempts")),
                *(Started(**_fields(row)) for row in database.execute("SELECT * FROM starts")),
                *(HintShown(**_fields(row)) for row in database.execute("SELECT * FROM hints")),
                *(SolutionShown(**_fields(row)) for row in database.execute("SELECT * FROM solutions")),
            ]
        return tuple(sorted(found, key=lambda record: record.at))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the file, upgraded first where it is old; where there is none, an empty one."""
        if not self.path.exists():
            with _empty() as database:
                yield database
            return
        with self._opened("rw") as database:
            version = self._version(database)
            if version == 0:  # made by a process that was killed before its first commit
                with _empty() as nothing:
                    yield nothing
                return
            if version < len(MIGRATIONS):
                with _transaction(database, "IMMEDIATE"):
                    self._upgrade(database)
            with _transaction(database, "DEFERRED"):
                yield database

    @contextmanager
    def _opened(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA synchronous = EXTRA")  # on disk, journal removed, before `add` returns
            yield database

    def _version(self, database: sqlite3.Connection) -> int:
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise ProgressTooNew(
                f"{self.path} was written by a newer Faultline (its version is {version}, this one knows"
                f" {len(MIGRATIONS)}), so it was left alone; update this clone with git pull"
            )
        return version

    def _upgrade(self, database: sqlite3.Connection) -> None:
        """Bring the file to this version, inside the transaction that the caller holds."""
        for statements in MIGRATIONS[self._version(database) :]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _explained(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explanation(consequence, error) from error
        except OSError as error:
            raise ProgressUnavailable(
                f"{self.path}: {error.strerror}, so {consequence}; mend it and try again"
            ) from error
        except ValueError as error:
            raise self._damaged(consequence, str(error)) from error

    def _explanation(self, consequence: str, error: sqlite3.Error) -> ProgressError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_CANTOPEN") and len(os.fsencode(self.path.absolute())) > LONGEST_PATH:
            return ProgressUnavailable(
                f"{self.path}: {consequence}, because the path is longer than the {LONGEST_PATH} bytes that SQLite"
                " takes; move the clone to a shorter one"
            )
        for prefix, obstacle in _OBSTACLES.items():
            if name.startswith(prefix):
                return ProgressUnavailable(f"{self.path}: {consequence}, because {obstacle}")
        return self._damaged(consequence, str(error))

    def _damaged(self, consequence: str, complaint: str) -> ProgressDamaged:
        return ProgressDamaged(
            f"{self.path}: {consequence}, because the file is damaged ({complaint});"
            " move it away, then `./lab progress import` your last export"
        )


@contextmanager
def _empty() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        for statements in MIGRATIONS:
            for statement in statements:
                database.execute(statement)
        yield database


@contextmanager
def _transaction(database: sqlite3.Connection, kind: str) -> Iterator[None]:
    """All of the block or none of it.

    Writers begin IMMEDIATE: a read lock that turns into a write lock fails at once instead of waiting.
    """
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _row(record: Record) -> dict[str, Any]:
    return {**asdict(record), "at": _text(record.at)}


def _text(at: datetime) -> str:
    """Sorts as time does, because every instant has the same zone and the same length."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _fields(row: sqlite3.Row) -> dict[str, Any]:
    fields: dict[str, Any] = {**dict(row), "at": datetime.fromisoformat(row["at"])}
    if "outcome" in fields:
        fields["outcome"] = Outcome(fields["outcome"])
    return fields


def _summary(row: sqlite3.Row) -> ModuleProgress:
    instants = {name: row[name] and datetime.fromisoformat(row[name]) for name in _INSTANTS}
    return ModuleProgress(tries=row["tries"], hints=row["hints"], **instants)
