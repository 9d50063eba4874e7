"""`./lab down`: stop the lab from another terminal, or end what a dead one left."""

import argparse
import asyncio
import os
from pathlib import Path

from faultline.cli.errors import UsageError
from faultline.components import Clone, sweep
from faultline.components.records import owner, read
from faultline.components.supervisor import ask_to_end

PATIENCE = 30.0


def configure(_parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(_args: argparse.Namespace, root: Path) -> int:
    """Ask the lab to end, wait for it, and end leftovers; nothing else is touched."""
    return asyncio.run(_down(Clone(root, os.environ)))


async def _down(clone: Clone) -> int:
    names = [record.name for record in read(clone.run)]
    lab = owner(clone.run)
    if lab is not None:
        if not await ask_to_end(clone.run, within=PATIENCE):
            raise UsageError(
                f"process {lab} did not stop the lab within {PATIENCE:.0f} s; end it with `kill -9 {lab}`, "
                "then `./lab down` ends what it leaves"
            )
        print(f"The lab has stopped: {', '.join(names) or 'no servers'}.")
        return 0
    if ended := await sweep(clone.run):
        print(f"The lab had died; ended what it left running: {', '.join(record.name for record in ended)}.")
    else:
        print("The lab is not running; nothing to stop.")
    return 0
