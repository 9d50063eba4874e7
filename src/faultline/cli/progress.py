"""`./lab progress`: where progress is kept; export and import of it."""

import argparse
from collections import Counter
from pathlib import Path

from faultline.engine.progress import Attempt, HintShown, Record, SolutionShown, Started
from faultline.engine.progress_export import read_export, write_export
from faultline.engine.progress_file import ProgressFile
from faultline.engine.roadmap import load
from faultline.engine.statuses import totals

_NAMES: dict[type[Record], tuple[str, str]] = {
    Attempt: ("attempt", "attempts"),
    Started: ("start", "starts"),
    HintShown: ("hint", "hints"),
    SolutionShown: ("solution shown", "solutions shown"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="export | import")
    exporting = actions.add_parser("export", help="write all progress to a JSON file")
    exporting.add_argument("file", type=Path, metavar="FILE")
    importing = actions.add_parser("import", help="add what an exported file holds; adding twice is adding once")
    importing.add_argument("file", type=Path, metavar="FILE")


def run(args: argparse.Namespace, root: Path) -> int:
    """Show, export or import the progress of the clone at `root`."""
    kept = ProgressFile.of_clone(root)
    if args.action == "export":
        records = kept.records()
        write_export(args.file, records)
        print(f"wrote {args.file}: {_counted(records)}")
    elif args.action == "import":
        records = read_export(args.file)
        new = kept.add(records)
        print(f"read {args.file}: {_counted(records)}; {new} of {len(records)} new")
    else:
        _show(kept, root)
    return 0


def _show(kept: ProgressFile, root: Path) -> None:
    counted = totals(load(root), kept.read())
    print(f"{counted.passed} of {counted.modules} modules passed ({counted.built} are built)")
    print(f"kept in {kept.path.relative_to(root)}: {_counted(kept.records())}")


def _counted(records: tuple[Record, ...]) -> str:
    kinds = Counter(type(record) for record in records)
    return ", ".join(f"{kinds[kind]} {names[kinds[kind] != 1]}" for kind, names in _NAMES.items())
