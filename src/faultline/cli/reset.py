"""`./lab reset MODULE`: start over; what was there is kept beside it."""

import argparse
from pathlib import Path

from faultline.engine import exercise, roadmap, workspace
from faultline.engine.module_names import find_module


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")


def run(args: argparse.Namespace, root: Path) -> int:
    """Put a fresh starter in place."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    backup = workspace.reset(root, chosen)
    folder = workspace.folder_of(root, chosen)
    print(f"The starter is in {folder.relative_to(root)}/.")
    if backup:
        print(f"What was there is kept in {backup.relative_to(root)}/.")
    return 0
