"""`./lab check MODULE`: grade the learner's solution, or any folder."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from faultline.cli.errors import UsageError
from faultline.cli.paint import Paint
from faultline.cli.verdict_lines import VerdictLines
from faultline.engine import exercise, roadmap, workspace
from faultline.engine.exercise import Exercise
from faultline.engine.grades import Grade, request
from faultline.engine.module_names import find_module
from faultline.engine.module_shape import check_names
from faultline.engine.progress_file import ProgressFile
from faultline.engine.verdicts import EXIT_CODES, Event, to_line
from faultline.engine.warm import WarmRunner


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")
    parser.add_argument("--solution", metavar="DIR", type=Path, help="grade the files in DIR instead of your own")
    parser.add_argument("--seed", metavar="N", type=_seed, help="repeat the choices of an earlier run")
    parser.add_argument("--only", metavar="CHECK", action="append", default=[], help="judge only this check")
    parser.add_argument("--all", action="store_true", help="show every failure in full, not only the first")
    parser.add_argument("--json", action="store_true", help="print the events, one JSON object a line")


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(text)
    return number


def run(args: argparse.Namespace, root: Path) -> int:
    """Grade, print as it comes, record the attempt if it was the learner's own."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    folder = args.solution.resolve() if args.solution else workspace.started(root, chosen)
    for name in chosen.toml.files:
        if not (folder / name).is_file():
            raise UsageError(f"{folder} holds no {name}; --solution takes a folder with the exercise's files")
    known = list(check_names(chosen))
    for name in args.only:
        if name not in known:
            raise UsageError(f"{chosen.module.id} has no check {name!r}; its checks: {', '.join(known)}")
    with WarmRunner(list(chosen.toml.components)) as runner:
        wanted = request(chosen, folder, root, seed=args.seed, only=args.only)
        grade = show(runner.grade(wanted), chosen, json=args.json, everything=args.all)
    if args.solution is None and not args.only:
        ProgressFile.of_clone(root).add([grade.attempt(chosen)])
    return EXIT_CODES[grade.verdict]


def show(events: Iterator[Event], chosen: Exercise, *, json: bool = False, everything: bool = False) -> Grade:
    """Print the run as it goes; returns what came of it."""
    lines = VerdictLines(chosen, Paint.for_(), command=f"./lab check {chosen.module.id}", everything=everything)
    if not json:
        print(f"\n{chosen.module.id}  {chosen.toml.title}\n", flush=True)
    for event in events:
        printed = list(lines.lines(event))
        if json:
            sys.stdout.buffer.write(to_line(event))
            sys.stdout.flush()
        else:
            for line in printed:
                print(line, flush=True)
    return lines.grade
