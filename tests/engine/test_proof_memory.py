"""A proof remembers what it has found, for as long as nothing changes that it depends on, and goes on where it was."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faultline.engine import exercise, roadmap
from faultline.engine.cases import cases
from faultline.engine.errors import NotRemembered
from faultline.engine.ground import ground, sources
from faultline.engine.memory import Memory
from faultline.engine.module_names import find_module
from faultline.engine.proof import Ground, Result, Subject, prove, recalled
from faultline.engine.run_folders import present
from faultline.engine.warm import WarmRunner

KINDS = {"starter", "reference", "alternative", "mutant"}
Proved = Callable[..., dict[str, Result]]


def known(root: Path, memory: Memory, *, repeat: int = 1, kinds: set[str] = KINDS) -> dict[str, Result]:
    """What is known of the counter's cases before anything is run."""
    chosen = exercise.load(find_module(roadmap.load(root), "redis/05"))
    wanted = [case for case in cases(chosen, root=root, timed=True) if case.kind in kinds]
    return {one.case.kind: one for one in recalled(Ground(chosen, root), wanted, memory, repeat=repeat)}


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "memory" / "proof.sqlite")


@pytest.fixture
def proved(warm: WarmRunner, tiny_clone: Path, memory: Memory) -> Proved:
    """Runs what is missing of the counter's proof."""

    def prove_it(*, repeat: int = 1) -> dict[str, Result]:
        results = known(tiny_clone, memory, repeat=repeat)
        on = Ground(exercise.load(find_module(roadmap.load(tiny_clone), "redis/05")), tiny_clone)
        list(prove([Subject(on, warm, list(results.values()))], memory))
        return results

    return prove_it


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_was_found_is_not_run_again_and_adds_up(proved: Proved, tiny_clone: Path, memory: Memory) -> None:
    proved(repeat=2)
    more = known(tiny_clone, memory, repeat=5)
    assert {(one.remembered, one.missing) for one in more.values()} == {(2, 3)}
    assert {len(one.runs) for one in proved(repeat=3).values()} == {3}
    assert {(one.remembered, one.missing) for one in known(tiny_clone, memory).values()} == {(3, 0)}


def test_a_byte_of_the_checks_forgets_everything(proved: Proved, tiny_module: Path) -> None:
    before = proved()
    with (tiny_module / "checks.py").open("a") as checks:
        checks.write("#")
    assert {one.remembered for one in proved().values()} == {0}
    edit(tiny_module / "checks.py", '"a new counter is not at zero"\n#', '"a new counter is not at zero"\n')
    assert {kind: one.remembered for kind, one in proved().items()} == dict.fromkeys(before, 1)


@pytest.mark.parametrize(
    ("file", "old", "new", "forgotten"),
    [
        ("alternatives/list/counter.py", "_numbers", "_number", {"alternative"}),
        ("exercise/counter.py", "raise", "raise ", {"starter"}),
        ("solution/counter.py", "(number)\n", "(number) \n", {"reference", "mutant"}),
        ("mutants.toml", "+= number + 1", "+= number + 2 - 1", {"mutant"}),
        ("mutants.toml", "the total is 6", "total is 6", set[str]()),
        ("module.toml", "It counts.", "It counts well.", set[str]()),
        ("module.toml", "minutes = 5", "minutes = 5\nbudget = 30.0", KINDS),
        ("README.md", "word", "words", set[str]()),
    ],
)
def test_an_edit_forgets_exactly_what_depends_on_it(
    proved: Proved,
    tiny_clone: Path,
    tiny_module: Path,
    memory: Memory,
    file: str,
    old: str,
    new: str,
    forgotten: set[str],
) -> None:
    proved()
    edit(tiny_module / file, old, new)
    assert {kind for kind, one in known(tiny_clone, memory).items() if not one.remembered} == forgotten


def test_a_new_expectation_is_held_against_what_is_remembered(proved: Proved, tiny_module: Path) -> None:
    proved()
    edit(tiny_module / "mutants.toml", "the total is 6", "the total is 7")
    mutant = proved()["mutant"]
    assert mutant.remembered == 1
    assert "does not look like" in mutant.objections[0]
    assert "remembered from" in mutant.objections[0]


@pytest.mark.parametrize("room", ["testbed", "components", "engine"])
def test_a_byte_of_what_a_run_executes_changes_the_ground(
    tiny_clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    chosen = exercise.load(find_module(roadmap.load(tiny_clone), "redis/05"))
    copy = tmp_path / "copy"
    shutil.copytree(
        Path(exercise.__file__).parents[1], copy / "faultline", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr("faultline.engine.ground._PACKAGES", copy)
    names = {"testbed": "checkers.py", "components": "processes.py", "engine": "grading.py"}
    before = ground(chosen, tiny_clone, busy=False)

    (copy / "faultline" / "cli" / "verify.py").write_text("")
    (copy / "faultline" / "engine" / "proof.py").write_text("")
    assert ground(chosen, tiny_clone, busy=False) == before  # a run executes neither

    with (copy / "faultline" / room / names[room]).open("a") as source:
        source.write("#")
    assert ground(chosen, tiny_clone, busy=False) != before


def test_the_ground_holds_what_a_run_imports() -> None:
    found = {path.name for path in sources(["faultline.engine.warm"])}
    assert {"warm.py", "warden.py", "grading.py", "testbed.py", "learner.py", "supervisor.py", "redis.py"} <= found
    assert not {"verify.py", "proof.py", "roadmap.py", "memory.py"} & found


def test_a_busy_machine_and_the_locks_are_another_ground(tiny_clone: Path) -> None:
    chosen = exercise.load(find_module(roadmap.load(tiny_clone), "redis/05"))
    idle = ground(chosen, tiny_clone, busy=False)
    assert ground(chosen, tiny_clone, busy=True) != idle
    locks = (tiny_clone / "requirements").resolve()
    (tiny_clone / "requirements").unlink()
    shutil.copytree(locks, tiny_clone / "requirements")
    assert ground(chosen, tiny_clone, busy=False) == idle
    with (tiny_clone / "requirements" / "lab.txt").open("a") as lock:
        lock.write("#")
    assert ground(chosen, tiny_clone, busy=False) != idle


def test_a_run_that_broke_is_not_remembered(
    proved: Proved, tiny_clone: Path, tiny_module: Path, memory: Memory
) -> None:
    edit(tiny_module / "checks.py", "total = await counter.total()", "raise KeyError('ours')")
    assert [kind for kind, one in proved().items() if one.objections] == ["reference", "alternative", "mutant"]
    assert [kind for kind, one in known(tiny_clone, memory).items() if one.remembered] == ["starter"]


def test_what_was_run_while_the_checks_were_edited_is_not_remembered(
    warm: WarmRunner, tiny_clone: Path, tiny_module: Path, memory: Memory
) -> None:
    results = known(tiny_clone, memory)
    on = Ground(exercise.load(find_module(roadmap.load(tiny_clone), "redis/05")), tiny_clone)
    with (tiny_module / "checks.py").open("a") as checks:
        checks.write("#")
    list(prove([Subject(on, warm, list(results.values()))], memory))
    edit(tiny_module / "checks.py", '"a new counter is not at zero"\n#', '"a new counter is not at zero"\n')
    assert {one.remembered for one in known(tiny_clone, memory).values()} == {0}


def test_a_flake_is_remembered_as_one(
    warm: WarmRunner, tiny_clone: Path, tiny_module: Path, memory: Memory, tmp_path: Path
) -> None:
    here_before = f"(seen := __import__('pathlib').Path({str(tmp_path / 'seen')!r})).exists() or seen.touch()"
    edit(tiny_module / "checks.py", "assert total == 3", f"assert not ({here_before}) and total == 3")
    results = known(tiny_clone, memory, repeat=2, kinds={"reference"})
    on = Ground(exercise.load(find_module(roadmap.load(tiny_clone), "redis/05")), tiny_clone)
    list(prove([Subject(on, warm, list(results.values()))], memory, jobs=1))

    again = known(tiny_clone, memory, repeat=2, kinds={"reference"})["reference"]
    assert (again.remembered, again.missing, len(again.objections)) == (2, 0, 1)
    assert "remembered from" in again.objections[0]


def test_a_file_that_is_no_database_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "proof.sqlite").write_bytes(b"no database, but long enough to be looked at" * 100)
    assert Memory(tmp_path / "proof.sqlite").runs("any") == []


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(NotRemembered, match=r"proof\.sqlite, where results of the proof are kept, cannot be used"):
        Memory(tmp_path / "cache" / "proof.sqlite")


def verify(root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "faultline.cli", "verify", "redis/05", "--jobs", "1", "--json"],
        env={**os.environ, "LAB_ROOT": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def kept(root: Path) -> int:
    """How many runs are on disk."""
    try:
        with contextlib.closing(sqlite3.connect(root / ".lab" / "cache" / "proof.sqlite")) as file:
            return int(file.execute("SELECT count(*) FROM runs").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_proof_that_was_ended_goes_on_where_it_was(tiny_clone: Path, how: signal.Signals) -> None:
    with verify(tiny_clone) as first:
        deadline = time.monotonic() + 50
        while kept(tiny_clone) < 5:
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(how)
    before = kept(tiny_clone)

    with verify(tiny_clone) as second:
        out, _ = second.communicate(timeout=50)

    assert second.returncode == 0, out
    cases = json.loads(out)[0]["cases"]
    assert [case["runs"] for case in cases] == [1] * len(cases)
    assert sum(case["remembered"] for case in cases) == before < len(cases)
    assert kept(tiny_clone) == len(cases)
    assert not present(tiny_clone)
