"""`./lab logs NAME`: what a server printed, also after it has ended."""

import argparse
import os
import sys
import time
from pathlib import Path

from faultline.cli.errors import UsageError
from faultline.components.clone import Clone
from faultline.components.component import LOG


def configure(parser: argparse.ArgumentParser) -> None:
    """A name, how many lines, and whether to go on."""
    parser.add_argument("name", nargs="?", help="as `./lab status` shows it")
    parser.add_argument("-n", "--lines", type=int, default=100, help="how many lines (100)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as the log grows; Ctrl-C ends it")


def run(args: argparse.Namespace, root: Path) -> int:
    """Print the end of the log, and with `-f` all that comes."""
    folder = Clone(root, os.environ).run
    names = sorted(log.parent.name for log in folder.glob(f"*/{LOG}"))
    there = f"there is {', '.join(names)}" if names else "none was started here yet: ./lab up"
    if args.name not in names:
        asked = f"no log of {args.name!r}" if args.name else "whose log?"
        raise UsageError(f"{asked}; {there}")
    with (folder / args.name / LOG).open(encoding="utf-8", errors="replace") as log:
        lines = log.readlines()
        sys.stdout.writelines(lines[max(len(lines) - args.lines, 0) :])
        if not lines:
            print(f"{args.name} has printed nothing yet.")
        while args.follow:
            sys.stdout.flush()
            if line := log.readline():
                sys.stdout.write(line)
            else:
                time.sleep(0.1)
    return 0
