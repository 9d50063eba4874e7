"""`lab roadmap`, `next` and `progress`: what the terminal shows is what was really passed."""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from faultline.cli.errors import UsageError
from faultline.engine.errors import BadExport, UnknownName
from faultline.engine.progress import Attempt, HintShown, Outcome, Started
from faultline.engine.progress_file import ProgressFile

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
Lab = Callable[..., str]
WIDE = "🔲🔄✅🔴🟡🟢⭐"  # what tmux and xterm draw two columns wide


def cells(text: str) -> int:
    """Not the code's own count, which is what is being tested."""
    return len(text) + sum(map(text.count, WIDE))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone in which redis/05 is built and nothing else."""
    for name in ("roadmap.toml", "learning-roadmap/README.md"):
        (tmp_path / "sandbox" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "sandbox" / name, tmp_path / "sandbox" / name)
    module = tmp_path / "sandbox" / "redis-learning" / "05-distributed-locks"
    module.mkdir(parents=True)
    (module / "module.toml").write_text("minutes = 75\n")
    return tmp_path


@pytest.fixture
def lab(root: Path, capsys: pytest.CaptureFixture[str]) -> Lab:
    """Runs a verb as `__main__` does and gives back what it printed."""

    def run(name: str, *arguments: str) -> str:
        verb = importlib.import_module(f"faultline.cli.{name}")
        parser = argparse.ArgumentParser()
        verb.configure(parser)
        assert verb.run(parser.parse_args(arguments), root) == 0
        return capsys.readouterr().out

    return run


def attempt(outcome: Outcome) -> Attempt:
    done = 7 if outcome is Outcome.PASSED else 2
    return Attempt(module="redis/05", at=NOON, outcome=outcome, seconds=2, checks_passed=done, checks_total=7, seed=1)


def row(shown: str, name: str) -> str:
    return next(line for line in shown.splitlines() if name in line)


@pytest.mark.parametrize("columns", [80, 100, 120, 40, 300])
def test_the_roadmap_fits_its_columns_and_no_box_is_crooked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = lab("roadmap")

    assert max(map(cells, shown.splitlines())) <= min(max(columns, 80), 120)
    lines = shown.splitlines()
    assert len(re.findall("┌─+┐", shown)) == 10
    for top, line in enumerate(lines):
        for corner in re.finditer("┌─+┐", line):
            assert_box(lines[top : top + 5], cells(line[: corner.start()]), len(corner[0]))


@pytest.mark.parametrize("columns", [80, 120])
def test_every_arrow_leads_from_a_stem_to_the_box_below(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = lab("roadmap").splitlines()
    arrows = [(number, place) for number, line in enumerate(lines) for place, mark in enumerate(line) if mark == "▼"]
    assert len(arrows) == 10
    for number, place in arrows:
        assert lines[number - 1][place] in "┬┌┐", lines[number - 1]
        assert lines[number + 1][place] == "─", lines[number + 1]


def assert_box(lines: list[str], left: int, width: int) -> None:
    """Left and right wall stand in the same columns on every line."""
    for line in lines:
        columns = [character for character in line for _ in range(cells(character))]
        assert columns[left] in "┌│└", line
        assert columns[left + width - 1] in "┐│┘", line


def test_the_tracker_shows_all_sixteen_topics_as_the_roadmap_draws_them(lab: Lab) -> None:
    shown = lab("roadmap")

    assert re.search(r"✅ +RabbitMQ Messaging +✅ COMPLETED +- +⭐⭐ +-", shown)
    assert re.search(r"✅ +ETL Patterns +✅ COMPLETED +- +⭐⭐⭐ +-", shown)
    assert re.search(r"(?m)^7 +Event Sourcing & CQRS +🔲 Pending +🟡 Medium +⭐⭐⭐⭐⭐ +2-3 weeks", shown)
    assert re.search(r"(?m)^14 +MFE Deployment & Versioning +🔲 Pending +🟡 Medium +⭐⭐⭐ +1 week", shown)
    assert shown.count("🔲 Pending") == 14
    assert "105 modules: 1 built, 0 passed (0 %)." in shown


def test_statuses_follow_what_was_done(lab: Lab, root: Path) -> None:
    kept = ProgressFile.of_clone(root)
    assert "🔲 Pending" in row(lab("roadmap"), "Redis Caching Patterns")
    assert "not started" in row(lab("roadmap", "redis"), "redis/05")

    kept.add([Started(module="redis/05", at=NOON)])
    assert "🔄 In Progress" in row(lab("roadmap"), "Redis Caching Patterns")
    assert re.search("🔄 +redis/05 +Distributed locks +started +75", lab("roadmap", "redis"))

    kept.add([attempt(Outcome.FAILED)])
    assert "1 try, not passed" in row(lab("roadmap", "redis"), "redis/05")

    kept.add([attempt(Outcome.PASSED)])
    assert re.search("✅ +redis/05 +Distributed locks +passed, 2 tries +75", lab("roadmap", "1"))
    assert "🔄 1/8 passed" in lab("roadmap")
    assert "105 modules: 1 built, 1 passed (0 %)." in lab("roadmap")


def test_what_is_not_built_is_never_shown_as_done(lab: Lab, root: Path) -> None:
    shown = lab("roadmap", "saga")
    assert shown.count("not built yet") == 8
    assert "Folder: sandbox/saga-pattern (not there yet)" in shown

    ProgressFile.of_clone(root).add([attempt(Outcome.PASSED)])
    (root / "sandbox" / "redis-learning" / "05-distributed-locks" / "module.toml").unlink()
    assert "not built yet" in row(lab("roadmap", "redis"), "redis/05")
    assert "0 built, 0 passed" in lab("roadmap")


def test_the_quick_command_of_the_roadmap_works_in_the_workspace(lab: Lab, root: Path) -> None:
    ProgressFile.of_clone(root).add([attempt(Outcome.PASSED)])
    assert lab("roadmap", "--write") == "wrote workspace/learning-roadmap/README.md\n"

    command = 'cat learning-roadmap/README.md | grep "Status"'
    found = subprocess.run(
        ["sh", "-c", command], cwd=root / "workspace", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    statuses = [line for line in found if line.startswith("**Status:**")]
    assert len(statuses) == 14
    assert statuses[0] == "**Status:** 🔄 In Progress | **Priority:** 🔴 High | **Complexity:** ⭐⭐"


def test_json_says_what_the_tables_say(lab: Lab, root: Path) -> None:
    ProgressFile.of_clone(root).add([attempt(Outcome.PASSED), HintShown(module="redis/05", number=1, at=NOON)])
    facts = json.loads(lab("roadmap", "--json"))

    assert facts["totals"] == {"modules": 105, "built": 1, "passed": 1, "percent": 0}
    assert [topic["id"] for topic in facts["completed_before"]] == ["rabbitmq", "etl"]
    assert len(facts["topics"]) == 14
    assert facts["topics"][0] == json.loads(lab("roadmap", "redis", "--json"))
    assert facts["topics"][0]["modules"][4] == {
        "id": "redis/05",
        "title": "Distributed locks",
        "folder": "05-distributed-locks",
        "status": "passed",
        "tries": 1,
        "hints": 1,
        "minutes": 75,
    }


def test_a_capstone_stands_after_the_modules_and_outside_the_sum(lab: Lab, root: Path) -> None:
    capstone = root / "sandbox" / "redis-learning" / "exercises" / "flash-sale"
    capstone.mkdir(parents=True)
    (capstone / "module.toml").write_text("minutes = 120\n")
    lines = lab("roadmap", "redis").splitlines()
    places = [next(at for at, line in enumerate(lines) if name in line) for name in ("redis/08", "redis/flash-sale")]
    assert places[1] == places[0] + 1
    assert "8 modules: 1 built, 0 passed (0 %)." in lines
    assert re.search("redis/flash-sale +Capstone: the flash sale +not started +120", lines[places[1]])

    facts = json.loads(lab("roadmap", "redis", "--json"))
    assert facts["capstone"]["id"] == "redis/flash-sale"
    assert facts["totals"]["modules"] == len(facts["modules"]) == 8
    assert json.loads(lab("roadmap", "saga", "--json"))["capstone"] is None


def test_what_is_skipped_before_a_capstone_is_told_in_one_range(lab: Lab, root: Path) -> None:
    (root / "sandbox" / "redis-learning" / "05-distributed-locks" / "module.toml").unlink()
    resilience = root / "sandbox" / "resilience-patterns" / "01-the-problem"
    resilience.mkdir(parents=True)
    (resilience / "module.toml").write_text("minutes = 60\n")

    assert "Skipped, not built yet: redis/01 to redis/08, redis/flash-sale." in lab("next")


def test_a_wrong_use_is_refused_in_a_sentence(lab: Lab) -> None:
    with pytest.raises(UnknownName, match=r"did you mean redis\?"):
        lab("roadmap", "reddis")
    with pytest.raises(UsageError, match="leave out TOPIC"):
        lab("roadmap", "redis", "--write")


def test_next_names_one_command_and_what_is_skipped(lab: Lab, root: Path) -> None:
    assert lab("next").splitlines() == [
        "Backend   redis/05  Distributed locks (75 minutes)",
        "          ./lab start redis/05",
        "          Skipped, not built yet: redis/01 to redis/04.",
        "",
        "Frontend  nothing to do: what is left is not built yet, from mfe/01 Why micro-frontends.",
    ]
    ProgressFile.of_clone(root).add([Started(module="redis/05", at=NOON)])
    assert "./lab check redis/05" in lab("next")
    ProgressFile.of_clone(root).add([attempt(Outcome.PASSED)])
    assert "nothing to do" in lab("next").splitlines()[0]

    back, front = json.loads(lab("next", "--json"))
    assert (back["track"], back["module"], front["track"], front["command"]) == ("backend", None, "frontend", None)
    assert len(front["not_built"]) == 24


def test_progress_travels_by_export_and_import(lab: Lab, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    kept = ProgressFile.of_clone(root)
    kept.add([Started(module="redis/05", at=NOON), attempt(Outcome.PASSED)])
    assert lab("progress", "export", str(file)) == (f"wrote {file}: 1 attempt, 1 start, 0 hints, 0 solutions shown\n")
    kept.path.unlink()

    assert lab("progress", "import", str(file)).endswith("; 2 of 2 new\n")
    assert lab("progress", "import", str(file)).endswith("; 0 of 2 new\n")
    assert lab("progress").splitlines() == [
        "1 of 105 modules passed (1 are built)",
        "kept in .lab/progress.db: 1 attempt, 1 start, 0 hints, 0 solutions shown",
    ]
    before = kept.records()
    file.write_text(file.read_text()[:-20])
    with pytest.raises(BadExport):
        lab("progress", "import", str(file))
    assert kept.records() == before


@pytest.mark.parametrize("name", ["roadmap", "next"])
def test_a_verb_that_must_be_quick_loads_nothing_heavy(name: str) -> None:
    heavy = "{'rich', 'pytest', 'asyncio', 'redis', 'psycopg', 'difflib', 'json'}"
    code = f"import sys, faultline.cli.{name}; print(sorted({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout == "[]\n"
