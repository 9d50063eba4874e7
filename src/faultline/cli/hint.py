"""`./lab hint MODULE`: the next hint, from nudge to near-answer."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from faultline.engine import exercise, roadmap
from faultline.engine.exercise import hints
from faultline.engine.module_names import find_module
from faultline.engine.progress import HintShown
from faultline.engine.progress_file import ProgressFile


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")
    parser.add_argument("--again", action="store_true", help="show those seen before, and no new one")


def run(args: argparse.Namespace, root: Path) -> int:
    """Show one more hint and remember that it was seen."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    progress = ProgressFile.of_clone(root)
    available = hints(chosen)
    seen = progress.read().of(chosen.module.id).hints
    if args.again:
        if not seen:
            print(f"You have seen no hint yet. ./lab hint {chosen.module.id} shows the first.")
        for number, text in enumerate(available[:seen], start=1):
            print(f"Hint {number} of {len(available)}\n\n{text}\n")
        return 0
    number = min(seen + 1, len(available))
    print(f"Hint {number} of {len(available)}\n\n{available[number - 1]}\n")
    if seen < len(available):
        progress.add([HintShown(module=chosen.module.id, number=number, at=datetime.now(UTC))])
    if number == len(available):
        print(f"That was the last one. ./lab solution {chosen.module.id} shows the reference.")
    return 0
