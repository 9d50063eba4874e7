"""`./lab read MODULE`: the lesson, in the terminal."""

import argparse
import sys
from pathlib import Path

from faultline.engine import exercise, roadmap
from faultline.engine.exercise import text_of
from faultline.engine.module_names import find_module


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")


def run(args: argparse.Namespace, root: Path) -> int:
    """Page the lesson; as it is where nobody reads it on a terminal."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    text = text_of(chosen.module.path / "README.md")
    if not sys.stdout.isatty():
        print(text, end="")
        return 0
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=min(Console().width, 100))
    with console.pager(styles=True):
        console.print(Markdown(text, code_theme="ansi_dark"))
    return 0
