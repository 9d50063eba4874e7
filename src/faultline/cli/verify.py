"""`./lab verify [MODULE]`: the proof of a grader, for those who write modules."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from faultline.engine import exercise, roadmap
from faultline.engine.errors import NotBuilt
from faultline.engine.exercise import Exercise
from faultline.engine.load import busy_machine
from faultline.engine.module_names import find_module, find_topic
from faultline.engine.module_shape import objections
from faultline.engine.proof import Result, cases, prove
from faultline.engine.roadmap import Module, Roadmap
from faultline.engine.warm import WarmRunner

KINDS = ("starter", "empty", "reference", "alternative", "mutant", "outsider")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("what", nargs="?", help="a topic or a module; all that are built without it")
    parser.add_argument("--repeat", type=_count, default=1, metavar="N", help="judge each N times, to find flakes")
    parser.add_argument("--load", action="store_true", help="on a machine that is kept busy")
    parser.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, metavar="N", help="runs at once")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these")
    parser.add_argument("--json", action="store_true", help="print the results for a program")


def run(args: argparse.Namespace, root: Path) -> int:
    """Prove each module; 0 if nothing objects."""
    modules = _built(roadmap.load(root), args.what)
    with busy_machine() if args.load else contextlib.nullcontext():
        proofs = [_prove(exercise.load(module), root, args) for module in modules]
    if args.json:
        print(json.dumps([proof.facts() for proof in proofs], indent=2))
    return 0 if all(proof.holds for proof in proofs) else 1


@dataclass(frozen=True, slots=True)
class _Proof:
    """What came of one module; `lacks` is what its folder should hold and does not."""

    exercise: Exercise
    lacks: list[str]
    results: list[Result]

    @property
    def objections(self) -> list[str]:
        told = [f"{result.case.kind} {result.case.name}: {one}" for result in self.results for one in result.objections]
        return [*self.lacks, *told]

    @property
    def holds(self) -> bool:
        return not self.objections

    def facts(self) -> dict[str, object]:
        return {
            "module": self.exercise.module.id,
            "python": sys.version.split()[0],
            "lacks": self.lacks,
            "cases": [
                {
                    "kind": result.case.kind,
                    "name": result.case.name,
                    "runs": len(result.seconds),
                    "median": result.median,
                    "max": max(result.seconds),
                    "objections": result.objections,
                }
                for result in self.results
            ],
        }


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _built(known: Roadmap, what: str | None) -> Sequence[Module]:
    chosen = known.modules if what is None else _named(known, what)
    if built := [module for module in chosen if module.built]:
        return built
    raise NotBuilt(f"nothing of {what or 'the roadmap'} is built yet, so there is nothing to verify")


def _named(known: Roadmap, what: str) -> Sequence[Module]:
    if what in {topic.id for topic in known.topics}:
        return find_topic(known, what).modules
    return [find_module(known, what)]


def _prove(chosen: Exercise, root: Path, args: argparse.Namespace) -> _Proof:
    console = Console(stderr=args.json)
    began = time.monotonic()
    wanted = [case for case in cases(chosen, timed=not args.load) if not args.kind or case.kind in args.kind]
    total = sum(args.repeat if case.repeated else 1 for case in wanted)
    results: dict[tuple[str, str], Result] = {}
    bar = Progress(
        TextColumn(f"{chosen.module.id}  {{task.description}}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar, WarmRunner(list(chosen.toml.components)) as runner:
        task = bar.add_task("", total=total)
        for result in prove(chosen, root, runner, wanted, repeat=args.repeat, jobs=args.jobs):
            results[result.case.kind, result.case.name] = result
            bar.update(task, advance=1, description=f"{result.case.kind} {result.case.name}")
    proof = _Proof(chosen, objections(chosen), [results[case.kind, case.name] for case in wanted])
    console.print(_table(chosen, proof.results))
    for objection in proof.objections:
        console.print(f"  [red]✗[/] {escape(objection)}")
    console.print(
        f"  {sum(len(result.seconds) for result in proof.results)} runs in {time.monotonic() - began:.0f} s, "
        f"{len(proof.objections)} objections" + (", on a busy machine" if args.load else "")
    )
    return proof


def _table(chosen: Exercise, results: list[Result]) -> Table:
    table = Table(title=f"{chosen.module.id}  {chosen.toml.title}", title_justify="left", box=None, pad_edge=False)
    for column in ("", "kind", "case"):
        table.add_column(column)
    for column in ("runs", "median s", "max s"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            "[red]✗[/]" if result.objections else "[green]✓[/]",
            result.case.kind,
            result.case.name,
            str(len(result.seconds)),
            f"{result.median:.2f}",
            f"{max(result.seconds):.2f}",
        )
    return table
