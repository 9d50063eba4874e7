"""`./lab test`: what shows in ten minutes that all is well; CI runs more of it. And where the time went."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faultline.cli.paint import Paint
from faultline.components.processes import tied
from faultline.components.room import in_memory
from faultline.engine.run_folders import leave_memory, remove
from faultline.testbed.descendants import kill_with_all_below


@dataclass(frozen=True, slots=True)
class Stage:
    """One program to run in the clone; it passes with exit code 0."""

    name: str
    command: Sequence[str]
    full_only: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a stage, in seconds, with its last lines where they were kept."""

    stage: Stage
    passed: bool
    seconds: float
    last_lines: Sequence[str]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _verify(*kinds: str) -> tuple[str, ...]:
    return _python("faultline.cli", "verify", *(f"--kind={kind}" for kind in kinds))


def _tests(marked: str, dealt_by: str) -> tuple[str, ...]:
    return _python("pytest", "-n", str(AT_ONCE), "--dist", dealt_by, "-m", marked, "--durations=10")


_LAST_LINES = 15
_LONGEST = 1500.0  # seconds for a stage: three times what it takes on a busy machine
_GRACE = 30.0  # seconds to say what has failed so far, once it is interrupted
AT_ONCE = 2 * (os.cpu_count() or 1)  # they wait for servers and timers nearly half of the time


STAGES = (
    Stage("ruff check", _python("ruff", "check")),
    Stage("ruff format", _python("ruff", "format", "--check")),
    Stage("codespell", _python("codespell_lib")),
    Stage("import-linter", (sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()")),
    Stage("mypy", _python("mypy")),
    Stage("basedpyright", _python("basedpyright")),
    Stage("tests", _tests("not once", "loadscope")),
    Stage("tests of programs", _tests("once and not slow", "loadgroup")),
    Stage("graders", _verify("starter", "empty", "reference", "alternative")),
    Stage("mutants", _verify("mutant"), full_only=True),
    Stage("slow tests", _tests("slow", "loadgroup"), full_only=True),
    Stage("automatic mutants", _verify("automatic"), full_only=True),
    Stage("outsiders", _verify("outsider"), full_only=True),
    Stage("benchmarks", _python("faultline.cli", "bench", "redis"), full_only=True),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--full", action="store_true", help="also mutants, slow tests, automatic mutants, outsiders, benchmarks"
    )
    parser.add_argument("--only", action="append", choices=[stage.name for stage in STAGES], help="only this")


def run(args: argparse.Namespace, root: Path) -> int:
    """Run every stage, also after a failure; 0 if all passed."""
    # Who starts us in the background may have Ctrl-C ignored, and every program below would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    paint = Paint.for_()
    wanted = [stage for stage in STAGES if (stage.name in args.only if args.only else args.full or not stage.full_only)]
    results: list[Ended] = []
    with _temporary(root) as temporary:
        for stage in wanted:
            print(paint.bold(f"── {stage.name} "), flush=True)
            results.append(_run(stage, root, _environment() | temporary))
    print(paint.bold("── where the time went "))
    for one in results:
        word = paint.in_("green", "passed") if one.passed else paint.in_("red", "FAILED")
        print(f"  {word}  {one.seconds:7.1f} s  {one.stage.name}")
    failed = [one for one in results if not one.passed]
    for one in failed:
        if one.last_lines:
            print(paint.bold(f"── the last lines of: {one.stage.name} "), *one.last_lines, sep="\n")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not results else 0


@contextmanager
def _temporary(root: Path) -> Iterator[dict[str, str]]:
    """Where the tests have their files: in memory, if there is enough of it; what an earlier one has left is removed.

    So they take a quarter less time, as they make thousands of files and remove them again.
    """
    memory = in_memory(root)
    if memory is None:
        yield {}
        return
    folder = memory / "tests"
    remove(folder)
    folder.mkdir(mode=0o711)
    try:
        yield {"TMPDIR": str(folder)}
    finally:
        remove(folder)
        leave_memory(root)


def _run(stage: Stage, root: Path, environment: Mapping[str, str]) -> Ended:
    """Run one stage. Its last lines are kept unless a person can scroll: a log of CI's is often cut to its end."""
    began = time.monotonic()
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    kept = not sys.stdout.isatty()
    with subprocess.Popen(
        tied(stage.command, os.environ),
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE if kept else None,
        stderr=subprocess.STDOUT if kept else None,
        text=True,
        errors="replace",
    ) as program:
        ends = threading.Timer(_LONGEST, program.send_signal, [signal.SIGINT])
        kills = threading.Timer(_LONGEST + _GRACE, kill_with_all_below, [[program.pid]])
        ends.start()
        kills.start()
        try:
            for line in program.stdout or ():
                print(line, end="", flush=True)
                last_lines.append(line.rstrip())
            program.wait()
        except BaseException:  # of SIGTERM, for one: nobody waits for the stage any more
            kill_with_all_below([program.pid])
            raise
        finally:
            ends.cancel()
            kills.cancel()
    if time.monotonic() - began > _LONGEST:
        print(f"lab test: {stage.name} did not end within {_LONGEST:.0f} s, and was ended", flush=True)
    return Ended(stage, program.returncode == 0, time.monotonic() - began, tuple(last_lines))


def _environment() -> dict[str, str]:
    """The environment of every stage, with nothing in it that changes what tests see."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_") and not (name.startswith("LAB_") and name.endswith("_URL"))
    }
