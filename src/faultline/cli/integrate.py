"""`./lab integrate MODULE`: your solution in the shop, in the place of ours, and the proof that the shop stands it."""

import argparse
import os
import shutil
from pathlib import Path

from faultline.chaos.errors import ChaosError
from faultline.cli import endings
from faultline.cli.errors import UsageError
from faultline.cli.paint import Paint
from faultline.components import Clone
from faultline.components.records import owner
from faultline.engine import exercise, roadmap, shop, workspace
from faultline.engine.lab import Lab
from faultline.engine.module_names import find_module
from faultline.integration import PROOFS, Finding, NotProven, Proof, Report, Stage

UNKNOWN = 3  # it was stopped before it could tell


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help=f"one of {', '.join(PROOFS)}")
    parser.add_argument("--solution", metavar="DIR", type=Path, help="the files in DIR instead of your own")


def run(args: argparse.Namespace, root: Path) -> int:
    """Run the shop with it, and prove; 0 if the shop has kept its word."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    proof = PROOFS.get(chosen.module.id)
    if proof is None:
        raise UsageError(f"{chosen.module.id} has no proof in the shop yet; these have: {', '.join(PROOFS)}")
    folder = args.solution.resolve() if args.solution else workspace.started(root, chosen)
    file = folder / chosen.toml.files[0]
    if not file.is_file():
        raise UsageError(f"{folder} holds no {file.name}; --solution takes a folder with the exercise's files")
    try:
        report = endings.run(_proven(Clone(root, os.environ), proof, file))
    except ChaosError as error:
        raise UsageError(str(error)) from error
    return UNKNOWN if report is None else _told(report)


async def _proven(clone: Clone, proof: Proof, file: Path) -> Report | None:
    """What came of it, in servers of its own; None if it was stopped."""
    folder = clone.integrate
    if pid := owner(folder):
        raise UsageError(f"process {pid} is at it already, in this clone: wait for its end")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = None
    try:
        async with Lab(clone, folder) as lab:
            stores = shop.stores(shop.SEARCHLESS)  # no proof asks for anything by words
            _say(f"starting {', '.join(stores)} ...")
            servers = {server.component: server for server in await lab.start(stores, shop.SETTINGS)}
            try:
                report = await proof(Stage(clone, folder, servers, _say), file)
            except NotProven as error:
                report = Report([Finding("the shop works with it", str(error))], "")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _told(report: Report) -> int:
    paint = Paint.for_()
    print()
    for one in report.findings:
        print(f"  {paint.in_('red', 'broken') if one.against else paint.in_('green', 'held')}  {one.promise}")
        if one.against:
            print(f"          {one.against}")
    broken = any(one.against for one in report.findings)
    if not broken:
        print(f"\n{report.in_short}")
    return 1 if broken else 0


def _say(text: str) -> None:
    print(text, flush=True)
