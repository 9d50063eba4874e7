"""`./lab down`: stop the lab from another terminal; what a dead one left, every verb has ended already."""

import argparse
import os
from pathlib import Path

from faultline.cli import endings
from faultline.cli.errors import UsageError
from faultline.components import Clone
from faultline.components.records import owner, read
from faultline.components.supervisor import ask_to_end

PATIENCE = 30.0


def configure(_parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(_args: argparse.Namespace, root: Path) -> int:
    """Ask the lab to end, and wait for it; nothing else is touched."""
    return endings.run(_down(Clone(root, os.environ)))


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
    print("The lab is not running; nothing to stop.")
    return 0
