"""`./lab up`: start the lab and show where the learner is; Ctrl-C or `./lab down` stops it."""

import argparse
import contextlib
import os
from pathlib import Path

from faultline.cli import endings
from faultline.cli.next import describe
from faultline.cli.paint import Paint
from faultline.components import CATALOG, Clone, Instance
from faultline.components.addresses import shown
from faultline.engine import exercise
from faultline.engine.lab import Lab
from faultline.engine.next_modules import NextModule, next_modules
from faultline.engine.progress_file import ProgressFile
from faultline.engine.roadmap import load
from faultline.engine.statuses import totals


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "components",
        nargs="*",
        metavar="COMPONENT",
        help=f"what to start, of {', '.join(CATALOG)}; else what is next needs",
    )


def run(args: argparse.Namespace, root: Path) -> int:
    """Run the lab until somebody ends it."""
    known = load(root)
    progress = ProgressFile.of_clone(root).read()
    steps = next_modules(known, progress)
    count = totals(known, progress)
    paint = Paint.for_()
    print(
        paint.bold("Faultline") + f"   {count.passed} of {count.modules} modules passed, {count.built} built so far\n",
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt):  # before the lab could listen for it
        endings.run(_serve(Clone(root, os.environ), args.components or _needed(steps), steps, paint))
    print("\nThe lab has stopped. Your progress and your workspace are kept.")
    return 0


def _needed(steps: tuple[NextModule, ...]) -> list[str]:
    """What the next modules need; Redis when nothing is left, so that there is something to play with."""
    found = {component for step in steps if step.module for component in exercise.load(step.module).toml.components}
    return sorted(found) or ["redis"]


async def _serve(clone: Clone, components: list[str], steps: tuple[NextModule, ...], paint: Paint) -> None:
    async with Lab(clone) as lab:
        for instance in await lab.start(components):
            print(f"  {paint.in_('green', 'ready')}  {instance.name:<12} {shown(instance.url)}", flush=True)
        print("\n" + paint.bold("Next") + "  (in another terminal)\n")
        print("\n\n".join(describe(step) for step in steps))
        print(paint.dim("\nCtrl-C stops the lab. ./lab status shows what runs."), flush=True)
        async for instance in lab.deaths():
            print(_obituary(instance), flush=True)


def _obituary(instance: Instance) -> str:
    return (
        f"\n{instance.name} has ended by itself, with {instance.exit_code}. Nothing restarts it: look at "
        f"./lab logs {instance.name}, then stop the lab and start it again."
    )
