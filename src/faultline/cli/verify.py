"""`./lab verify [MODULE]`: the proof of a grader, for those who write modules."""

import argparse
import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from faultline.cli.errors import UsageError
from faultline.cli.proof_table import print_objections, print_proof
from faultline.components import Clone
from faultline.engine import exercise, roadmap
from faultline.engine.cases import AUTOMATIC, KINDS, Case, cases
from faultline.engine.errors import NotBuilt
from faultline.engine.exercise import Exercise
from faultline.engine.graders_page import write_page
from faultline.engine.load import busy_machine
from faultline.engine.memory import Memory
from faultline.engine.module_names import find_module, find_topic
from faultline.engine.proof import Ground, Subject, prove, recalled
from faultline.engine.proof_summary import Proof
from faultline.engine.roadmap import Module, Roadmap
from faultline.engine.run_folders import leave_memory
from faultline.engine.warm import WarmRunner


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("what", nargs="?", help="a topic or a module; all that are built without it")
    parser.add_argument("--repeat", type=_count, default=1, metavar="N", help="judge each N times, to find flakes")
    parser.add_argument("--load", action="store_true", help="on a machine that is kept busy")
    parser.add_argument("--jobs", type=_count, metavar="N", help="runs at once; else as many as there is room for")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these")
    parser.add_argument("--again", action="store_true", help="forget what earlier proofs have found, and run it anew")
    parser.add_argument("--write", action="store_true", help="write the matrix to docs/graders.md")
    parser.add_argument("--json", action="store_true", help="print the results for a program")


def run(args: argparse.Namespace, root: Path) -> int:
    """Prove each module; 0 if nothing objects."""
    if args.write and (args.kind or args.load):
        raise UsageError("--write publishes the whole proof of a module: it takes no --kind and no --load")
    known = roadmap.load(root)
    modules = _built(known, args.what)
    memory = Memory(Clone(root, os.environ).cache / "proof.sqlite")
    with busy_machine() if args.load else contextlib.nullcontext():
        proofs = _proved([exercise.load(module) for module in modules], root, memory, args)
    if args.json:
        print(json.dumps([proof.facts() for proof in proofs], indent=2))
    elif len(proofs) > 1:
        print_objections(proofs, Console())
    if args.write:
        write_page(root, proofs, memory, others=[one.id for one in known.exercises if one.built and one not in modules])
    return 0 if all(proof.holds for proof in proofs) else 1


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _built(known: Roadmap, what: str | None) -> Sequence[Module]:
    chosen = known.exercises if what is None else _named(known, what)
    if built := [module for module in chosen if module.built]:
        return built
    raise NotBuilt(f"nothing of {what or 'the roadmap'} is built yet, so there is nothing to verify")


def _named(known: Roadmap, what: str) -> Sequence[Module]:
    if what in {topic.id for topic in known.topics}:
        return find_topic(known, what).exercises
    return [find_module(known, what)]


def _proved(chosen: Sequence[Exercise], root: Path, memory: Memory, args: argparse.Namespace) -> list[Proof]:
    """Prove them, with a bar while it lasts, and print each as soon as it and those before it are known."""
    console = Console(stderr=args.json)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar, contextlib.ExitStack() as runners:
        runners.callback(leave_memory, root)  # when all runs have ended, also those that were interrupted
        began: dict[str, float] = {}
        warm = {
            needed: runners.enter_context(WarmRunner(sorted(needed)))
            for needed in {frozenset(one.toml.components) for one in chosen}
        }
        subjects: list[Subject] = []
        for one in chosen:
            on = Ground(one, root, args.load)
            results = recalled(on, _wanted(one, root, args), memory, repeat=args.repeat, again=args.again)
            subjects.append(Subject(on, warm[frozenset(one.toml.components)], results))
        missing = sum(result.missing for subject in subjects for result in subject.results)
        task = bar.add_task("", total=missing)
        unprinted = deque(Proof(subject.on.exercise, subject.results) for subject in subjects)
        proofs = list(unprinted)
        for subject, result in prove(subjects, memory, jobs=args.jobs):
            name = f"{subject.on.exercise.module.id}  {result.case.kind} {result.case.name}"
            bar.update(task, advance=1, description=escape(name[:62]))
            ended = result.runs[-1].grade.ended if result.runs else None
            began.setdefault(subject.on.exercise.module.id, time.monotonic() - (ended.seconds if ended else 0.0))
            while unprinted and unprinted[0].known:
                _print(unprinted.popleft(), console, began, args)
        for proof in unprinted:
            _print(proof, console, began, args)
    return proofs


def _print(proof: Proof, console: Console, began: dict[str, float], args: argparse.Namespace) -> None:
    """With the seconds since its first run began; those of other modules may have been made meanwhile."""
    now = time.monotonic()
    print_proof(proof, console, seconds=now - began.get(proof.exercise.module.id, now), busy=args.load)


def _wanted(chosen: Exercise, root: Path, args: argparse.Namespace) -> list[Case]:
    kinds = set(args.kind or KINDS)
    if AUTOMATIC in kinds:
        kinds.add("reference")  # its time is the measure of theirs
    return [case for case in cases(chosen, root=root, timed=not args.load) if case.kind in kinds]
