"""What `lab test` and a proof of several modules end with: what failed, since of a long log the end is read first."""

import argparse
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from faultline.cli import test as verb
from faultline.cli.proof_table import print_objections
from faultline.components.room import memory_of
from faultline.engine import exercise, roadmap
from faultline.engine.module_names import find_module
from faultline.engine.proof_summary import Proof


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_it_ends_with_the_last_lines_of_what_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = (
        verb.Stage("first", python("import sys; [print('line', n) for n in range(40)]; sys.exit(\"the reason\")")),
        verb.Stage("second", python("print('all is well')")),
    )
    monkeypatch.setattr(verb, "STAGES", stages)
    assert verb.run(argparse.Namespace(full=False, only=None), tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("line 0") == 1, "all is printed as it comes"
    told = lines[lines.index("── where the time went ") :]
    assert [line.split()[0] for line in told[1:3]] == ["FAILED", "passed"]
    assert told[3:] == [
        "── the last lines of: first ",
        *(f"line {number}" for number in range(26, 40)),
        "the reason",
        "1 passed, 1 failed",
    ]


@pytest.mark.parametrize(
    ("full", "only", "run"), [(False, None, 1), (True, None, 2), (False, ["long"], 1), (True, ["first"], 1)]
)
def test_what_takes_long_is_run_when_it_is_asked_for(
    full: bool,
    only: list[str] | None,
    run: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stages = (verb.Stage("first", python("pass")), verb.Stage("long", python("pass"), full_only=True))
    monkeypatch.setattr(verb, "STAGES", stages)
    assert verb.run(argparse.Namespace(full=full, only=only), tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{run} passed, 0 failed" in said
    assert ("── long" in said) == (full or bool(only)) * (only != ["first"])


def test_what_tests_write_lies_in_memory_and_nothing_of_it_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = "import tempfile; print('in', tempfile.mkdtemp())"
    monkeypatch.setattr(verb, "STAGES", (verb.Stage("first", python(tell)),))
    abandoned = memory_of(tmp_path) / "tests" / "of one that was killed"
    abandoned.mkdir(parents=True)
    assert verb.run(argparse.Namespace(full=False, only=None), tmp_path) == 0
    assert f"in {memory_of(tmp_path) / 'tests'}/" in capsys.readouterr().out
    assert not memory_of(tmp_path).exists()


@pytest.mark.parametrize(
    "hears", ["while True: time.sleep(60)", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(60)"]
)
def test_a_stage_that_hangs_is_ended_and_the_others_are_run(
    hears: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = (verb.Stage("first", python(f"import signal, time\n{hears}")), verb.Stage("second", python("pass")))
    monkeypatch.setattr(verb, "STAGES", stages)
    monkeypatch.setattr(verb, "_LONGEST", 1.0)
    monkeypatch.setattr(verb, "_GRACE", 0.5)
    assert verb.run(argparse.Namespace(full=False, only=None), tmp_path) == 1
    said = capsys.readouterr().out
    assert "first did not end within 1 s, and was ended" in said
    assert "1 passed, 1 failed" in said


def test_objections_of_several_modules_are_listed_at_the_end(tiny_clone: Path, tiny_module: Path) -> None:
    (tiny_module / "equivalents.toml").write_text("[[survivors]]\nmutants = ['none of ours']\nwhy = 'It was one.'\n")
    chosen = exercise.load(find_module(roadmap.load(tiny_clone), "redis/05"))
    text = StringIO()
    print_objections([Proof(chosen, []), Proof(chosen, [])], Console(file=text, width=200))
    first, *objections = text.getvalue().splitlines()
    assert first == "2 modules, 2 objections"
    assert (
        objections
        == ["  ✗ redis/05  equivalents.toml lists 'none of ours', which is no automatic mutant (any more)"] * 2
    )
