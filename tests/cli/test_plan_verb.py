"""`lab plan`: the weeks in the terminal, for a program and for a calendar."""

import argparse
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

from faultline.cli import plan
from faultline.cli.errors import UsageError
from faultline.engine.errors import NotWritten
from faultline.engine.progress import Attempt, Outcome, Started
from faultline.engine.progress_file import ProgressFile

ROOT = Path(__file__).parents[2]
BEFORE = datetime(2027, 1, 1, 12, tzinfo=UTC)
WEEK_4 = datetime(2027, 1, 27, 12, tzinfo=UTC)
WIDE = "✅🔄🔲"
Lab = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone in which redis/01 is built and nothing else."""
    module = tmp_path / "sandbox" / "redis-learning" / "01-basic-operations"
    module.mkdir(parents=True)
    (module / "module.toml").write_text("minutes = 60\n")
    shutil.copy(ROOT / "sandbox" / "roadmap.toml", tmp_path / "sandbox")
    return tmp_path


@pytest.fixture
def lab(root: Path, capsys: pytest.CaptureFixture[str]) -> Lab:
    """Runs the verb at a given moment and gives back what it printed."""

    def run(*arguments: str, now: datetime = BEFORE, start: str = "2027-01-04") -> str:
        parser = argparse.ArgumentParser()
        plan.configure(parser)
        assert plan.run_at(parser.parse_args(["--start", start, *arguments]), root, now=now) == 0
        return capsys.readouterr().out

    return run


def passed(root: Path) -> None:
    done = Attempt(
        module="redis/01", at=BEFORE, outcome=Outcome.PASSED, seconds=1, checks_passed=4, checks_total=4, seed=1
    )
    ProgressFile.of_clone(root).add([done])


def events(text: str) -> list[dict[str, str]]:
    """A small reader of RFC 5545 that shares nothing with the writer; refuses what the grammar refuses."""
    assert text.endswith("\r\n")
    raw = text[:-2].split("\r\n")
    assert not re.search(r"[\r\n]", "".join(raw))
    assert all(len(line.encode()) <= 75 for line in raw)
    lines = text.replace("\r\n ", "")[:-2].split("\r\n")
    assert (lines[0], lines[-1]) == ("BEGIN:VCALENDAR", "END:VCALENDAR")
    found: list[dict[str, str]] = []
    head: dict[str, str] = {}
    current = head
    for line in lines[1:-1]:
        match = re.fullmatch(r"([A-Z-]+)((?:;[A-Z-]+=[^;:,]+)*):(.*)", line)
        assert match, line
        name, parameters, value = match.groups()
        if (name, value) == ("BEGIN", "VEVENT"):
            assert current is head
            current = {}
        elif (name, value) == ("END", "VEVENT"):
            found.append(current)
            current = head
        else:
            assert name + parameters not in current
            if name in {"SUMMARY", "DESCRIPTION"}:
                assert not re.search(r"(?<!\\)[;,]|\\(?![\\;,n])", value), value
            current[name + parameters] = value
    assert current is head
    assert head["VERSION"] == "2.0"
    assert head["PRODID"]
    return found


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_the_plan_fits_its_columns(lab: Lab, root: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    passed(root)
    for now in (BEFORE, WEEK_4):
        lines = lab(now=now).splitlines()
        assert max(len(line) + sum(map(line.count, WIDE)) for line in lines) <= columns
        assert all(line == line.rstrip() for line in lines)


def test_weeks_with_signs_moves_and_the_end_are_shown(lab: Lab, root: Path) -> None:
    passed(root)
    shown = lab(now=WEEK_4)

    assert re.search(r"(?m)^✅ +4 +2027-01-25 +Redis Cache +redis/01 +this week, from week 1$", shown)
    assert re.search(r"(?m)^· +redis/02-04$", shown)
    assert "Backend:  1 of 81 passed, 3 weeks late; ends on 2027-06-06, week 22." in shown
    assert "The plan ends on Sunday 2027-06-06, after 22 weeks.\nThe roadmap says 16-20 weeks" in shown


def test_a_track_alone_is_planned_alone(lab: Lab) -> None:
    assert "redis" not in lab("--track", "frontend")
    assert "mfe" not in lab("--track", "backend")
    assert [t["track"] for t in json.loads(lab("--json"))["tracks"]] == ["backend", "frontend"]


def test_json_says_what_the_table_says(lab: Lab, root: Path) -> None:
    passed(root)
    facts = json.loads(lab("--json", now=WEEK_4))

    assert (facts["start"], facts["this_week"], facts["end"], facts["roadmap_weeks"]) == (
        "2027-01-04",
        4,
        "2027-06-06",
        [16, 20],
    )
    assert [track["weeks_late"] for track in facts["tracks"]] == [3, 3]
    modules = [module for week in facts["weeks"] for topic in week["topics"] for module in topic["modules"]]
    assert len({module["id"] for module in modules}) == len(modules) == 105
    assert [module["status"] for module in modules[:2]] == ["passed", "not built yet"]


def test_the_calendar_keeps_the_grammar_and_moves_its_events(lab: Lab, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "plan.ics"
    assert lab("--ics", str(file)) == f"wrote {file}: 25 events of a week each\n"
    before = events(file.read_bytes().decode())
    passed(root)
    lab("--ics", str(file), now=WEEK_4)
    after = events(file.read_bytes().decode())

    uids = [event["UID"] for event in before]
    assert len(set(uids)) == 25
    assert [event["UID"] for event in after] == uids
    assert (before[0]["DTSTART;VALUE=DATE"], before[0]["DTEND;VALUE=DATE"]) == ("20270104", "20270111")
    assert (after[0]["DTSTART;VALUE=DATE"], after[0]["DTEND;VALUE=DATE"]) == ("20270125", "20270201")
    assert (before[0]["DTSTAMP"], after[0]["DTSTAMP"]) == ("20270101T120000Z", "20270127T120000Z")
    assert (
        r"redis/01 Basic operations (passed)\nredis/02 Cache-aside pattern (not built yet)" in after[0]["DESCRIPTION"]
    )


@pytest.mark.parametrize("shift", [0, 1])  # a two-octet character ends at, or would cross, the fold
def test_text_is_escaped_and_folded_in_the_calendar(lab: Lab, root: Path, tmp_path: Path, shift: int) -> None:
    title = "x" * shift + "ä; b, c \\n " + "é" * 70
    data = root / "sandbox" / "roadmap.toml"
    data.write_text(data.read_text().replace('title = "Redis Caching Patterns"', f"title = '{title}'"))
    lab("--ics", str(tmp_path / "plan.ics"))
    first = events((tmp_path / "plan.ics").read_bytes().decode())[0]
    assert first["SUMMARY"] == "x" * shift + r"ä\; b\, c \\n " + "é" * 70 + r"\, redis/01-04"


def test_a_calendar_that_cannot_be_written_leaves_the_old_one(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "plan.ics").mkdir()
    with pytest.raises(NotWritten, match="was not written"):
        lab("--ics", str(tmp_path / "plan.ics"))
    assert not list(tmp_path.glob(".plan.ics*"))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("2027-01-06", "is a Wednesday, and a plan starts on a Monday: try 2027-01-04 or 2027-01-11"),
        ("2026-12-30", "is a Wednesday, and a plan starts on a Monday: try 2027-01-04$"),
        ("2026-12-28", "is in the past and no module of this plan is begun.*--start 2027-01-04"),
        ("2027-02-30", "'2027-02-30' is no date; write year, month and day: --start 2027-01-04"),
        ("20270104", "is no date"),
        ("tomorrow", "is no date"),
        ("9999-12-27", "more than 10 years ahead"),
    ],
)
def test_a_start_that_is_none_is_refused_with_one_that_is(lab: Lab, start: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lab(start=start)


def test_a_past_start_counts_once_the_plan_is_begun(lab: Lab, root: Path) -> None:
    ProgressFile.of_clone(root).add([Started(module="redis/01", at=BEFORE)])
    assert "3 weeks late" in lab(now=WEEK_4)
    with pytest.raises(UsageError, match="no module of this plan is begun"):
        lab("--track", "frontend", now=WEEK_4)


def test_a_wrong_start_ends_with_two_and_a_sentence(root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "faultline.cli", "plan", "--start", "2027-01-06"],
        env={**os.environ, "LAB_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("lab plan: --start 2027-01-06 is a Wednesday")
    assert ran.stderr.count("\n") == 1
