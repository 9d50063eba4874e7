"""`./lab logs NAME`: what a server printed, also after it has ended."""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from faultline.cli.errors import UsageError
from faultline.components.clone import Clone
from faultline.components.component import LOG


def configure(parser: argparse.ArgumentParser) -> None:
    """A name, how many lines, and whether to go on."""
    parser.add_argument("name", nargs="?", help="as `./lab status` shows it")
    how(parser)


def how(parser: argparse.ArgumentParser) -> None:
    """How much of a log, for every verb that shows one."""
    parser.add_argument("-n", "--lines", type=int, default=100, help="how many lines (100)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as the log grows; Ctrl-C ends it")


def run(args: argparse.Namespace, root: Path) -> int:
    """Print the end of the log, and with `-f` all that comes."""
    logs = {log.parent.name: log for log in Clone(root, os.environ).run.glob(f"*/{LOG}")}
    show(logs, args, none="none was started here yet: ./lab up")
    return 0


def show(logs: Mapping[str, Path], args: argparse.Namespace, *, none: str) -> None:
    """Print the one that was asked for. Raises `UsageError` that says which there are, or why there is `none`."""
    there = f"there is {', '.join(sorted(logs))}" if logs else none
    if args.name not in logs:
        asked = f"no log of {args.name!r}" if args.name else "whose log?"
        raise UsageError(f"{asked}; {there}")
    with logs[args.name].open(encoding="utf-8", errors="replace") as log:
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
