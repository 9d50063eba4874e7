"""Progress outlives kills, other writers, other versions and bad files; what cannot be kept is refused."""

import contextlib
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from faultline.engine import progress_file
from faultline.engine.errors import BadExport, NotWritten, ProgressDamaged, ProgressTooNew, ProgressUnavailable
from faultline.engine.progress import Attempt, HintShown, Outcome, Record, SolutionShown, Started
from faultline.engine.progress_export import read_export, write_export
from faultline.engine.progress_file import ProgressFile

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SRC = str(Path(__file__).parents[2] / "src")
ENVIRONMENT = {**os.environ, "PYTHONPATH": SRC}


def attempt(outcome: Outcome = Outcome.FAILED, module: str = "redis/05", minute: int = 0) -> Attempt:
    return Attempt(
        module=module,
        at=NOON + timedelta(minutes=minute),
        outcome=outcome,
        seconds=1.25,
        checks_passed=7 if outcome is Outcome.PASSED else 3,
        checks_total=7,
        seed=42,
    )


def one_of_each() -> tuple[Record, ...]:
    return (
        Started(module="redis/05", at=NOON),
        attempt(Outcome.FAILED, minute=1),
        HintShown(module="redis/05", number=1, at=NOON + timedelta(minutes=2)),
        HintShown(module="redis/05", number=2, at=NOON + timedelta(minutes=3)),
        attempt(Outcome.PASSED, minute=4),
        SolutionShown(module="redis/05", at=NOON + timedelta(minutes=5)),
    )


@pytest.fixture
def kept(tmp_path: Path) -> ProgressFile:
    return ProgressFile.of_clone(tmp_path)


def test_a_capstone_has_progress_like_a_module(kept: ProgressFile, tmp_path: Path) -> None:
    kept.add([attempt(Outcome.PASSED, module="redis/flash-sale"), Started(module="redis/flash-sale", at=NOON)])
    write_export(tmp_path / "mine.json", kept.records())

    assert read_export(tmp_path / "mine.json") == kept.records()
    done = kept.read().of("redis/flash-sale")
    assert (done.tries, done.passed_at, done.started_at) == (1, NOON, NOON)


def test_what_was_recorded_is_read_back(kept: ProgressFile) -> None:
    records = one_of_each()

    assert kept.add(records) == 6

    assert kept.records() == records
    done = kept.read().of("redis/05")
    assert (done.tries, done.hints, done.begun) == (2, 2, True)
    assert done.started_at == NOON
    assert done.passed_at == NOON + timedelta(minutes=4)
    assert done.solution_shown_at == done.touched_at == NOON + timedelta(minutes=5)
    assert not kept.read().of("redis/06").begun


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNKNOWN, Outcome.ERROR])
def test_only_a_pass_counts_as_one(kept: ProgressFile, outcome: Outcome) -> None:
    kept.add([attempt(outcome)])
    assert kept.read().of("redis/05").passed_at is None
    assert kept.read().of("redis/05").tries == 1


def test_a_pass_stays_one_after_a_later_failure(kept: ProgressFile) -> None:
    kept.add([attempt(Outcome.PASSED, minute=1), attempt(Outcome.FAILED, minute=2)])
    assert kept.read().of("redis/05").passed_at == NOON + timedelta(minutes=1)


def test_the_earliest_start_counts_in_any_zone_and_order(kept: ProgressFile) -> None:
    east = timezone(timedelta(hours=9))
    earlier = (NOON - timedelta(seconds=1)).astimezone(east)
    for at in (NOON, earlier, NOON + timedelta(days=1)):
        kept.add([Started(module="redis/05", at=at)])
    assert kept.read().of("redis/05").started_at == earlier


def test_reading_makes_no_file(kept: ProgressFile, tmp_path: Path) -> None:
    assert kept.records() == ()
    assert kept.read().modules == {}
    assert list(tmp_path.iterdir()) == []


def test_a_pass_without_checks_or_with_a_failed_one_cannot_be_made() -> None:
    for wrong in ({"checks_passed": 6}, {"checks_passed": 0, "checks_total": 0}):
        with pytest.raises(ValueError, match="checks is none"):
            replace(attempt(Outcome.PASSED), **wrong)
    with pytest.raises(ValueError, match="no time zone"):
        Started(module="redis/05", at=NOON.replace(tzinfo=None))


WRITER = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from faultline.engine.progress import Attempt, HintShown, Outcome
from faultline.engine.progress_file import ProgressFile

kept, first = ProgressFile(Path(sys.argv[1])), int(sys.argv[2])
for number in range(first, first + int(sys.argv[3])):
    now = datetime.now(UTC)
    tried = Attempt(module="redis/05", at=now, outcome=Outcome.FAILED, seconds=0.1, checks_passed=0,
                    checks_total=7, seed=number)
    kept.add([tried, HintShown(module="redis/05", number=number, at=now)])
    os.write(1, b"%d\\n" % number)
"""


def writer(path: Path, first: int, count: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)


def killed(process: "subprocess.Popen[bytes]", chance: random.Random) -> list[int]:
    """What the writer acknowledged until it was killed, a random moment after a random acknowledgement."""
    assert process.stdout is not None
    output, wanted = b"", chance.randint(0, 6)
    while output.count(b"\n") <= wanted:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, "the writer is stuck"
        output += os.read(process.stdout.fileno(), 65536)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0, 0.01))
    process.kill()
    output += process.stdout.read()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return [int(number) for number in output.split()]


@pytest.mark.timeout(180)
def test_no_acknowledged_record_is_lost_to_a_kill_at_any_moment(tmp_path: Path) -> None:
    seed = int(os.environ.get("LAB_SEED", random.SystemRandom().randrange(2**32)))
    print(f"LAB_SEED={seed}")
    chance = random.Random(seed)
    path = tmp_path / "progress.db"
    acknowledged: list[int] = []
    inside = 0
    for kill in range(60):
        acknowledged += killed(writer(path, 1 + kill * 1_000_000, 1_000_000), chance)
        inside += path.with_name("progress.db-journal").exists()

        records = ProgressFile(path).records()
        attempts = {record.seed for record in records if isinstance(record, Attempt)}
        hints = {record.number for record in records if isinstance(record, HintShown)}
        assert attempts >= set(acknowledged), f"kill {kill} lost {set(acknowledged) - attempts}"
        assert attempts == hints, f"kill {kill} left half of a transaction"
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    print(f"{len(acknowledged)} records acknowledged, {inside} of 60 kills fell inside a transaction")
    assert inside > 0, "no kill fell inside a transaction, so nothing was proven"


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "progress.db"
    writers = [writer(path, 1 + number * 1000, 40) for number in range(4)]
    for process in writers:
        assert process.communicate(timeout=50)[0].count(b"\n") == 40
        assert process.returncode == 0

    seeds = sorted(record.seed for record in ProgressFile(path).records() if isinstance(record, Attempt))
    assert seeds == [1 + number * 1000 + one for number in range(4) for one in range(40)]


def test_one_bad_record_of_several_leaves_none(kept: ProgressFile) -> None:
    kept.add([attempt()])
    before = kept.records()
    with pytest.raises(ProgressDamaged):
        kept.add([attempt(), replace(attempt(), module=None)])  # pyright: ignore[reportArgumentType]
    assert kept.records() == before


def test_an_older_file_is_brought_forward_by_reading_and_by_writing(
    kept: ProgressFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add(one_of_each())
    later = ("ALTER TABLE hints ADD COLUMN note TEXT", "DELETE FROM hints WHERE number = 1")
    monkeypatch.setattr(progress_file, "MIGRATIONS", [*progress_file.MIGRATIONS, later])

    assert kept.read().of("redis/05").hints == 1
    with contextlib.closing(sqlite3.connect(kept.path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
    kept.add([HintShown(module="redis/05", number=1, at=NOON)])
    assert kept.read().of("redis/05").hints == 2, "the migration must run once"


def test_a_migration_that_fails_changes_nothing(kept: ProgressFile, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.add(one_of_each())
    before = kept.path.read_bytes()
    broken = ("DELETE FROM attempts", "DELETE FROM nothing_like_that")
    with monkeypatch.context() as patch:
        patch.setattr(progress_file, "MIGRATIONS", [*progress_file.MIGRATIONS, broken])
        with pytest.raises(ProgressDamaged):
            kept.add([attempt()])
    assert kept.path.read_bytes() == before


def test_a_file_of_a_newer_version_is_left_alone(kept: ProgressFile) -> None:
    kept.add(one_of_each())
    with contextlib.closing(sqlite3.connect(kept.path)) as database:
        database.execute("PRAGMA user_version = 9")
    before = kept.path.read_bytes()

    for act in (kept.read, kept.records, lambda: kept.add([attempt()])):
        with pytest.raises(ProgressTooNew, match=r"its version is 9, this one knows 1.*git pull"):
            act()
    assert kept.path.read_bytes() == before


def test_a_file_of_a_process_killed_before_its_first_commit_is_empty_progress(kept: ProgressFile) -> None:
    kept.path.parent.mkdir()
    kept.path.touch()
    assert kept.read().modules == {}
    assert kept.path.stat().st_size == 0, "reading must not write"
    assert kept.add([attempt()]) == 1
    assert kept.read().of("redis/05").tries == 1


def test_a_file_that_is_no_progress_is_refused_with_what_to_do(kept: ProgressFile) -> None:
    kept.path.parent.mkdir()
    kept.path.write_bytes(b"something else entirely, longer than any header of a database would be" * 20)
    for act in (kept.read, lambda: kept.add([attempt()])):
        with pytest.raises(ProgressDamaged, match=r"progress\.db: .*move it away.*progress import"):
            act()


def test_a_writer_that_holds_the_file_too_long_is_named_as_the_reason(
    kept: ProgressFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add([attempt()])
    monkeypatch.setattr(progress_file, "BUSY_TIMEOUT", 0.05)
    with contextlib.closing(sqlite3.connect(kept.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ProgressUnavailable, match="another process has held it"):
            kept.add([attempt()])
    assert kept.read().of("redis/05").tries == 1


def inside_a_small_disk(folder: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script, then Python, in a mount namespace of its own where `folder` is a file system of 64 kB."""
    mount = f"mount -t tmpfs -o size=64k none {folder}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc"]
    if not shutil.which("unshare") or subprocess.run([*unshare, mount], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let an ordinary process mount a file system (user namespaces)")
    return subprocess.run(
        [*unshare, f"{mount}\n{script}"], check=False, capture_output=True, text=True, env=ENVIRONMENT, timeout=50
    )


FILL = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from faultline.engine.errors import ProgressUnavailable
from faultline.engine.progress import HintShown
from faultline.engine.progress_file import ProgressFile

kept, added = ProgressFile(Path(sys.argv[1])), 0
try:
    while added < 5000:
        added += kept.add(HintShown(module="redis/05", number=added + n + 1, at=datetime.now(UTC)) for n in range(20))
except ProgressUnavailable as error:
    print(error)
print(added, kept.read().of("redis/05").hints)
"""


def test_a_full_disk_is_said_and_what_was_recorded_stays(tmp_path: Path) -> None:
    ran = inside_a_small_disk(tmp_path, f"{sys.executable} -c '{FILL}' {tmp_path}/progress.db")
    said, counted = ran.stdout.splitlines()
    assert "progress was not recorded, because the disk is full; free some space" in said, ran.stderr
    added, read = counted.split()
    assert added == read
    assert int(added) > 0


def test_a_read_only_folder_is_said_and_progress_is_still_read(tmp_path: Path) -> None:
    script = FILL.replace("< 5000", "< 20")
    run = f"{sys.executable} -c '{script}' {tmp_path}/progress.db"
    ran = inside_a_small_disk(tmp_path, f"{run}\nmount -o remount,bind,ro {tmp_path}\n{run}")
    first, said, counted = ran.stdout.splitlines()
    assert first == "20 20", ran.stderr
    assert "progress was not recorded, because the file or its folder is read-only" in said
    assert counted == "0 20"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / ".lab").write_text("a file where the folder should be")
    with pytest.raises(ProgressUnavailable, match=r"progress was not recorded"):
        ProgressFile.of_clone(tmp_path).add([attempt()])


def test_an_export_carries_everything_and_importing_twice_is_importing_once(kept: ProgressFile, tmp_path: Path) -> None:
    kept.add(one_of_each())
    write_export(tmp_path / "mine.json", kept.records())
    other = ProgressFile(tmp_path / "other" / "progress.db")
    own = attempt(Outcome.FAILED, minute=-5)
    other.add([own, Started(module="redis/05", at=NOON + timedelta(days=1))])

    assert other.add(read_export(tmp_path / "mine.json")) == 6
    assert other.records() == (own, *kept.records())
    assert other.add(read_export(tmp_path / "mine.json")) == 0
    assert other.records() == (own, *kept.records())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "is no export"),
        (lambda text: "", "is no export"),
        (lambda text: "[]", "is no export"),
        (lambda text: text.replace("faultline-progress", "something"), r"`\$.format`"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "newer Faultline .its version is 2"),
        (lambda text: text.replace('"passed"', '"done"'), r"`\$.attempts\[1\].outcome`"),
        (lambda text: text.replace('"checks_passed": 7', '"checks_passed": 8'), "8 of 7 checks passed"),
        (lambda text: text.replace('"checks_passed": 7', '"checks_passed": 6'), "a pass with 6 of 7 checks is none"),
        (lambda text: text.replace('"redis/05"', '"../etc"'), r"`\$.attempts\[0\].module`"),
        (lambda text: text.replace("12:00:00Z", "12:00:00"), "at"),
        (lambda text: text.replace('"seed": 42', '"seed": 9223372036854775808'), "seed"),
    ],
)
def test_a_bad_import_is_refused_with_its_place_and_changes_nothing(
    kept: ProgressFile, tmp_path: Path, damage, said: str
) -> None:
    kept.add(one_of_each())
    path = tmp_path / "export.json"
    write_export(path, kept.records())
    whole = path.read_text()
    path.write_text(damage(whole))
    assert path.read_text() != whole

    with pytest.raises(BadExport, match=said) as caught:
        read_export(path)
    assert str(path) in str(caught.value)


def test_an_import_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(BadExport, match="cannot be read"):
            read_export(path)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(BadExport, match="is no export"):
        read_export(tmp_path / "binary")


def test_an_export_replaces_an_export_and_nothing_else(kept: ProgressFile, tmp_path: Path) -> None:
    kept.add(one_of_each())
    path = tmp_path / "export.json"
    write_export(path, ())
    write_export(path, kept.records())
    assert len(read_export(path)) == 6

    path.write_text("my notes")
    with pytest.raises(NotWritten, match="was left alone"):
        write_export(path, kept.records())
    assert path.read_text() == "my notes"


def test_an_export_that_cannot_be_written_leaves_no_trace(kept: ProgressFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="was not written"):
        write_export(tmp_path / "file" / "export.json", kept.records())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
