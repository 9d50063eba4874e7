"""The verbs of a module, as typed: what they print, what they change, and their exit codes."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.conftest import write

from faultline.cli.__main__ import main
from faultline.engine.progress_file import ProgressFile
from faultline.engine.run_folders import present
from faultline.engine.verdicts import Began, Ended, Judged, from_line

Lab = Callable[..., tuple[int, str, str]]
STARTED = "workspace/redis-learning/05-distributed-locks/counter.py"


@pytest.fixture
def lab(tiny_clone: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Lab:
    """Types `./lab …` in the test's clone: exit code, output, complaints."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        sys.stdout.flush()
        said = capfdbinary.readouterr()
        return code, said.out.decode(), said.err.decode()

    return run


def solve(root: Path) -> None:
    reference = root / "sandbox" / "redis-learning" / "05-distributed-locks" / "solution" / "counter.py"
    (root / STARTED).write_text(reference.read_text())


def test_start_says_what_to_do_next_and_never_overwrites(lab: Lab, tiny_clone: Path) -> None:
    code, out, _ = lab("start", "redis/05")
    assert code == 0
    assert f"edit      {STARTED}\n" in out
    assert "./lab watch redis/05" in out
    (tiny_clone / STARTED).write_text("mine")

    code, out, _ = lab("start", "redis/05")

    assert code == 0
    assert "kept as it was; ./lab reset starts over" in out
    assert (tiny_clone / STARTED).read_text() == "mine"
    assert ProgressFile.of_clone(tiny_clone).read().of("redis/05").begun


def test_reset_says_where_the_old_files_are(lab: Lab, tiny_clone: Path) -> None:
    lab("start", "redis/05")
    (tiny_clone / STARTED).write_text("mine")
    code, out, _ = lab("reset", "redis/05")
    kept = re.search(r"What was there is kept in (\S+)/\.", out)
    assert code == 0
    assert kept
    assert (tiny_clone / kept[1] / "counter.py").read_text() == "mine"
    assert (tiny_clone / STARTED).read_text() != "mine"


def test_hints_come_one_by_one_and_again_shows_only_those_seen(lab: Lab) -> None:
    assert "no hint yet" in lab("hint", "redis/05", "--again")[1]
    heads = [lab("hint", "redis/05")[1].partition("\n")[0] for _ in range(2)]
    assert heads == ["Hint 1 of 3", "Hint 2 of 3"]
    assert re.findall("Hint . of 3", lab("hint", "redis/05", "--again")[1]) == heads
    assert "That was the last one. ./lab solution redis/05" in lab("hint", "redis/05")[1]
    assert lab("hint", "redis/05")[1].startswith("Hint 3 of 3\n\nNearly\n\n`self._total += number`")


def test_check_passes_fails_and_records_what_it_graded(lab: Lab, tiny_clone: Path) -> None:
    lab("start", "redis/05")
    code, out, _ = lab("check", "redis/05", "--seed", "4")
    assert code == 1
    assert "✗ Adding one three times gives three." in out
    assert "seen      your code raised NotImplementedError, at counter.py:4" in out
    assert "look at   the method `add`." in out
    assert "0 of 4 promises kept" in out
    assert "./lab check redis/05 --seed 4" in out

    solve(tiny_clone)
    code, out, _ = lab("check", "redis/05")
    assert code == 0
    assert "All 4 promises kept" in out
    progress = ProgressFile.of_clone(tiny_clone).read().of("redis/05")
    assert (progress.tries, progress.passed_at is None) == (2, False)

    assert lab("check", "redis/05", "--only", "counts")[0] == 0
    assert lab("check", "redis/05", "--solution", str(tiny_clone / "workspace"))[0] == 2
    assert ProgressFile.of_clone(tiny_clone).read().of("redis/05").tries == 2
    assert not present(tiny_clone)


def test_a_known_mistake_is_told_with_its_diagnosis(lab: Lab, tiny_clone: Path, tiny_module: Path) -> None:
    lab("start", "redis/05")
    mistake = (tiny_module / "solution" / "counter.py").read_text().replace("+= number", "+= number + 1")
    (tiny_clone / STARTED).write_text(mistake)
    assert "this is   what happens when one is added to what is added." in lab("check", "redis/05")[1]


def test_check_as_json_is_the_events(lab: Lab, tiny_module: Path) -> None:
    code, out, _ = lab("check", "redis/05", "--json", "--seed", "3", "--solution", str(tiny_module / "solution"))
    events = [from_line(line.encode()) for line in out.splitlines()]
    assert code == 0
    assert isinstance(events[0], Began)
    assert events[0].seed == 3
    assert [type(event) for event in events[1:]] == [Judged] * 4 + [Ended]


def test_a_grader_that_breaks_is_exit_code_3(lab: Lab, tiny_module: Path) -> None:
    (tiny_module / "checks.py").write_text("import nothing_of_that_name\n")
    code, out, _ = lab("check", "redis/05", "--solution", str(tiny_module / "solution"))
    assert code == 3
    assert "The grader itself broke: nothing is known of your code." in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["check", "redis/05"], "is not there; ./lab start redis/05 puts the starter there"),
        (["watch", "redis/05"], "is not there; ./lab start redis/05 puts the starter there"),
        (["check", "redis/06", "--solution", "."], "redis/06 (Rate limiting) is not built yet; ./lab next"),
        (["verify", "redis/06"], "nothing of redis/06 is built yet"),
        (["check", "rediss/05"], "redis"),
        (["start", "distributed-lock"], "did you mean redis/05"),
        (["check", "redis/05", "--solution", "/"], "/ holds no counter.py; --solution takes a folder"),
        (["check", "redis/05", "--seed", "-1"], "--seed"),
        (["check", "redis/05", "--seed", str(2**63)], "--seed"),
        (["verify", "--kind", "nonsense"], "--kind"),
        (["verify", "--repeat", "0"], "--repeat"),
        (["test", "--only", "nonsense"], "--only"),
        (["solution", "redis/05"], "redis/05 is not passed yet; to see the reference all the same: --yes"),
        (["nonsense"], "there is no verb 'nonsense'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(lab: Lab, arguments: list[str], complaint: str) -> None:
    code, _, err = lab(*arguments)
    assert code == 2
    assert complaint in err
    assert "Traceback" not in err


def test_an_unknown_check_is_named_with_those_there_are(lab: Lab, tiny_module: Path) -> None:
    code, _, err = lab("check", "redis/05", "--only", "typo", "--solution", str(tiny_module / "solution"))
    assert code == 2
    assert "redis/05 has no check 'typo'; its checks: counts, refuses_less_than_nothing, " in err


@pytest.mark.parametrize("verb", ["start", "reset"])
def test_a_workspace_that_cannot_be_written_is_a_sentence_and_exit_code_2(
    lab: Lab, tiny_clone: Path, verb: str
) -> None:
    (tiny_clone / "workspace").write_text("in the way")
    code, _, err = lab(verb, "redis/05")
    assert code == 2
    assert f"lab {verb}: {tiny_clone}/workspace/" in err
    assert "make it writable" in err


@pytest.mark.parametrize(
    ("file", "verb"),
    [
        ("README.md", "read"),
        ("hints.md", "hint"),
        ("example.py", "run"),
        ("checks.py", "verify"),
        ("solution/counter.py", "solution"),
    ],
)
def test_a_file_that_is_missing_is_a_sentence(lab: Lab, tiny_module: Path, file: str, verb: str) -> None:
    (tiny_module / file).unlink()
    extra = ["--yes"] if verb == "solution" else []
    code, _, err = lab(verb, "redis/05", *extra)
    assert code == 2
    assert file in err
    assert "restore it with git checkout" in err


def test_a_topic_may_have_an_example_of_its_own(lab: Lab, tiny_module: Path) -> None:
    topic = tiny_module.parent
    assert lab("run", "redis")[0] == 2
    write(topic / "topic.toml", 'summary = "It stores."\nexample = { file = "examples/all.py" }')
    code, _, err = lab("run", "redis")
    assert (code, "all.py is missing" in err) == (2, True)
    write(topic / "examples" / "all.py", "print('all of it')")
    assert lab("run", "redis-learning")[:2] == (0, "all of it\n")
    write(topic / "topic.toml", 'example = { files = "all.py" }')
    code, _, err = lab("run", "redis")
    assert (code, "topic.toml" in err) == (2, True)


def test_read_run_and_solution_print_what_the_module_holds(lab: Lab, tiny_clone: Path, tiny_module: Path) -> None:
    assert lab("read", "redis/05")[1] == (tiny_module / "README.md").read_text()
    assert lab("solution", "redis/05", "--yes")[1] == (tiny_module / "solution" / "counter.py").read_text()
    assert lab("run", "redis/05")[:2] == (0, "one two\n")
    (tiny_module / "example.py").write_text("raise SystemExit(7)\n")
    assert lab("run", "redis/05")[0] == 1
    assert not present(tiny_clone)


@pytest.mark.parametrize(("typed", "shown"), [(b"y\n", True), (b"n\n", False), (b"\x04", False)], ids=["y", "n", "^D"])
def test_solution_asks_first_on_a_terminal(tiny_clone: Path, typed: bytes, shown: bool) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "faultline.cli", "solution", "redis/05"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        env={**os.environ, "LAB_ROOT": str(tiny_clone)},
    ) as asking:
        os.close(theirs)
        os.write(ours, typed)
        out, _ = asking.communicate(timeout=20)
    os.close(ours)
    assert ("class Counter" in out.decode()) == shown
    assert asking.returncode == (0 if shown else 1)
    assert (ProgressFile.of_clone(tiny_clone).read().of("redis/05").solution_shown_at is not None) == shown


def test_ctrl_c_in_the_middle_of_a_check_is_exit_code_2_and_leaves_nothing(tiny_clone: Path, tiny_module: Path) -> None:
    (tiny_module / "solution" / "counter.py").write_text(
        "class Counter:\n    def __init__(self):\n        while True: pass\n"
    )
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "faultline.cli",
            "check",
            "redis/05",
            "--json",
            "--solution",
            str(tiny_module / "solution"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LAB_ROOT": str(tiny_clone)},
    ) as checking:
        assert checking.stdout
        assert checking.stdout.readline().startswith(b'{"type":"began"')
        below = psutil.Process(checking.pid).children(recursive=True)
        deadline = time.monotonic() + 10
        while len(below) < 4:  # runner, warden, grader, nursery
            assert time.monotonic() < deadline
            below = psutil.Process(checking.pid).children(recursive=True)
        checking.send_signal(signal.SIGINT)
        _, err = checking.communicate(timeout=20)
    assert checking.returncode == 2
    assert err.decode() == "\nlab check: stopped by Ctrl-C, nothing is left running\n"
    assert not [process for process in below if process.is_running()]
    assert not present(tiny_clone)


def test_verify_tells_each_objection_and_its_exit_code(lab: Lab, tiny_module: Path) -> None:
    code, out, _ = lab("verify", "redis/05")
    assert code == 0, out
    assert "11 of 11 refused, 100.0%" in out
    assert re.search(r"^  16 runs in \d+ s, 0 objections$", out, re.MULTILINE)
    text = (tiny_module / "checks.py").read_text()
    (tiny_module / "checks.py").write_text(text.replace("total == 3", "total >= 3"))
    code, out, err = lab("verify", "redis/05", "--json", "--kind", "mutant")
    assert code == 1
    assert "not refused by counts" in " ".join(err.split())
    assert '"kind": "mutant"' in out


def test_verify_says_what_it_remembers_and_runs_it_anew_when_told_to(lab: Lab) -> None:
    few = ("verify", "redis/05", "--kind", "starter", "--kind", "reference")
    lab(*few)
    code, out, _ = lab(*few, "--repeat", "2")
    assert code == 0, out
    assert re.search(r"^  2 runs in \d+ s, 2 of 4 remembered from \d{4}-\d\d-\d\d, 0 objections$", out, re.MULTILINE)
    assert re.search(r"^  nothing to run, 4 of 4 remembered from ", lab(*few)[1], re.MULTILINE)
    assert re.search(r"^  2 runs in \d+ s, 0 objections$", lab(*few, "--again")[1], re.MULTILINE)
    facts = json.loads(lab(*few, "--json")[1])[0]["cases"]
    assert [(case["kind"], case["runs"], case["remembered"]) for case in facts] == [
        ("starter", 1, 1),
        ("reference", 1, 1),
    ]


def test_the_matrix_is_written_of_whole_proofs_only(lab: Lab, tiny_clone: Path) -> None:
    code, _, err = lab("verify", "redis/05", "--kind", "starter", "--write")
    assert code == 2
    assert "--write publishes the whole proof" in err
    assert not (tiny_clone / "docs").exists()
    code, out, _ = lab("verify", "--write")
    assert code == 0, out
    page = (tiny_clone / "docs" / "graders.md").read_text()
    assert "| 1 of 1 accepted | 1 of 1 refused | 11 of 11 refused, 100.0%; 0 listed | 0 of 0 as recorded |" in page
    assert "0 of 4 runs, 0 of them on a busy machine" in page


def test_a_capstone_is_handled_like_a_module(lab: Lab, tiny_clone: Path, tiny_module: Path) -> None:
    capstone = tiny_clone / "sandbox" / "redis-learning" / "exercises" / "flash-sale"
    shutil.copytree(tiny_module, capstone)
    mine = tiny_clone / "workspace" / "redis-learning" / "exercises" / "flash-sale" / "counter.py"

    assert "./lab check redis/flash-sale" in lab("start", "redis/flash-sale")[1]
    assert lab("check", "flash-sale")[0] == 1
    assert lab("solution", "redis/flash-sale", "--yes")[0] == 0
    mine.write_text((capstone / "solution" / "counter.py").read_text())
    code, out, _ = lab("check", "redis/flash-sale")
    assert (code, "redis/flash-sale" in out) == (0, True)
    for verb in ("read", "run", "hint"):
        assert lab(verb, "redis/flash-sale")[0] == 0
    assert lab("reset", "redis/flash-sale")[0] == 0
    assert mine.read_text() == (capstone / "exercise" / "counter.py").read_text()
    done = ProgressFile.of_clone(tiny_clone).read().of("redis/flash-sale")
    assert (done.tries, done.hints, done.passed_at is None, done.solution_shown_at is None) == (2, 1, False, False)
    assert re.search("✅ +redis/flash-sale .* passed, 2 tries", lab("roadmap", "redis")[1])
    assert "105 modules: 1 built, 0 passed" in lab("roadmap")[1]


def test_verify_proves_a_capstone_with_its_topic_and_with_everything(
    lab: Lab, tiny_clone: Path, tiny_module: Path
) -> None:
    shutil.copytree(tiny_module, tiny_clone / "sandbox" / "redis-learning" / "exercises" / "flash-sale")
    few = ("--kind", "outsider", "--json")  # there are none, so nothing runs

    proven = [json.loads(lab("verify", *what, *few)[1]) for what in (["redis/flash-sale"], ["redis"], [])]

    both = ["redis/05", "redis/flash-sale"]
    assert [[proof["module"] for proof in proofs] for proofs in proven] == [both[1:], both, both]
