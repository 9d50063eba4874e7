"""`./lab test`: all that CI runs, and where the time went."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faultline.cli.paint import Paint
from faultline.components.processes import tied


@dataclass(frozen=True, slots=True)
class Stage:
    """One program to run in the clone; it passes with exit code 0."""

    name: str
    command: Sequence[str]
    full_only: bool = False


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _verify(*kinds: str) -> tuple[str, ...]:
    return _python("faultline.cli", "verify", *(f"--kind={kind}" for kind in kinds))


STAGES = (
    Stage("ruff check", _python("ruff", "check")),
    Stage("ruff format", _python("ruff", "format", "--check")),
    Stage("codespell", _python("codespell_lib")),
    Stage("import-linter", (sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()")),
    Stage("mypy", _python("mypy")),
    Stage("basedpyright", _python("basedpyright")),
    Stage("tests", _python("pytest", "-n", "2", "--dist", "loadscope", "-m", "not once", "--durations=10")),
    Stage("tests of programs", _python("pytest", "-n", "2", "--dist", "loadscope", "-m", "once", "--durations=10")),
    Stage("graders", _verify("starter", "empty", "reference", "alternative", "mutant")),
    Stage("automatic mutants", _verify("automatic"), full_only=True),
    Stage("outsiders", _verify("outsider"), full_only=True),
    Stage("benchmarks", _python("faultline.cli", "bench", "redis"), full_only=True),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--full", action="store_true", help="also automatic mutants, outsiders and benchmarks")
    parser.add_argument("--only", action="append", choices=[stage.name for stage in STAGES], help="only this")


def run(args: argparse.Namespace, root: Path) -> int:
    """Run every stage, also after a failure; 0 if all passed."""
    # Who starts us in the background may have Ctrl-C ignored, and every program below would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    paint = Paint.for_()
    wanted = [
        stage for stage in STAGES if (args.full or not stage.full_only) and (not args.only or stage.name in args.only)
    ]
    results: list[tuple[Stage, bool, float]] = []
    for stage in wanted:
        print(paint.bold(f"── {stage.name} "), flush=True)
        began = time.monotonic()
        command = tied(stage.command, os.environ)
        passed = subprocess.run(command, cwd=root, env=_environment(), check=False).returncode == 0
        results.append((stage, passed, time.monotonic() - began))
    print(paint.bold("── where the time went "))
    for stage, passed, seconds in results:
        word = paint.in_("green", "passed") if passed else paint.in_("red", "FAILED")
        print(f"  {word}  {seconds:7.1f} s  {stage.name}")
    failed = sum(not passed for _, passed, _ in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


def _environment() -> dict[str, str]:
    """The environment of every stage, with nothing in it that changes what tests see."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_") and not (name.startswith("LAB_") and name.endswith("_URL"))
    }
