"""`./lab solution MODULE`: show the reference; asks first while the module is not passed."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from faultline.cli.errors import UsageError
from faultline.engine import exercise, roadmap
from faultline.engine.exercise import text_of
from faultline.engine.module_names import find_module
from faultline.engine.progress import SolutionShown
from faultline.engine.progress_file import ProgressFile


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace, root: Path) -> int:
    """Print the reference, and remember that it was shown."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    progress = ProgressFile.of_clone(root)
    passed = progress.read().of(chosen.module.id).passed_at is not None
    if not passed and not args.yes and not _sure(chosen.module.id):
        print("Not shown. ./lab hint gives a nudge instead.")
        return 1
    progress.add([SolutionShown(module=chosen.module.id, at=datetime.now(UTC))])
    for name in chosen.toml.files:
        _print_source(chosen.reference / name)
    return 0


def _sure(module: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"{module} is not passed yet; to see the reference all the same: --yes")
    try:
        answer = input(f"You have not passed {module} yet. Show the reference all the same? [y/N] ")
    except EOFError:  # Ctrl-D
        print()
        return False
    return answer.strip().lower() in {"y", "yes"}


def _print_source(path: Path) -> None:
    text = text_of(path)
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.syntax import Syntax

    Console().print(Syntax(text, "python", theme="ansi_dark", background_color="default"))
