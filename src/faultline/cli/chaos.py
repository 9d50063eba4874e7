"""`./lab chaos check | sweep`: whether the shop keeps its word, after whatever was done to it."""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from faultline.chaos import checker, place, report, rig, sweep
from faultline.chaos.books import Books
from faultline.chaos.buyers import Bought, Buyer
from faultline.chaos.errors import ChaosError, NotQuiet, NotReached
from faultline.chaos.finding import Verdict
from faultline.chaos.history import History
from faultline.cli import endings
from faultline.cli.columns import table, terminal_width
from faultline.cli.errors import UsageError
from faultline.cli.paint import Paint
from faultline.components import Clone
from faultline.components.records import owner
from faultline.engine import shop
from faultline.engine.lab import Lab

DOCUMENT = Path("docs", "edge-sweep.md")
COLOURS = {
    "held": "green",
    "violated": "red",
    "undecided": "yellow",
    "unread": "yellow",
    "unfinished": "red",
    "missed": "yellow",
}
VIOLATED, UNREAD = 1, 3
STOCKED = 10**6  # of the one product that a sweep buys


def configure(parser: argparse.ArgumentParser) -> None:
    """What to do."""
    what = parser.add_subparsers(dest="what", required=True, metavar="check | sweep")
    check = what.add_parser("check", help="all invariants of the running shop; exit code 1 if one is violated")
    check.add_argument("--now", action="store_true", help="do not wait until it is quiet")
    edges = what.add_parser("sweep", help="a shop of its own, killed at every edge of a purchase; goes on where it was")
    edges.add_argument("--at-most", type=int, default=400, metavar="N", help="edges in all, with those known (400)")
    edges.add_argument("--again", action="store_true", help="forget what was found before")
    edges.add_argument("--write", action="store_true", help=f"write {DOCUMENT}")


def run(args: argparse.Namespace, root: Path) -> int:
    """Do it, for the shop of this clone."""
    clone = Clone(root, os.environ)
    try:
        if args.what == "check":
            return endings.run(_check(clone, wait=not args.now))
        return endings.run(_sweep(clone, args))
    except ChaosError as error:
        raise UsageError(str(error)) from error


async def _check(clone: Clone, *, wait: bool) -> int:
    if owner(clone.shop) is None:
        raise UsageError("the shop is closed; open it first, in another terminal: ./lab shop up")
    async with place.books(clone.shop) as books:
        if wait:
            await _rest(books)
        verdicts = await checker.check(books)
    _show(verdicts)
    states = {verdict.state for verdict in verdicts}
    return VIOLATED if "violated" in states else UNREAD if "unread" in states else 0


async def _rest(books: Books) -> None:
    try:
        seconds = await checker.quiet(books)
        print(f"The shop was quiet after {seconds:.1f} s.\n", flush=True)
    except NotQuiet as error:
        print(f"The shop is not quiet: {error}\n", flush=True)


def _show(verdicts: list[Verdict]) -> None:
    paint = Paint.for_()
    for line in table(report.verdicts(verdicts), width=terminal_width(), wrapped=2):
        print(line)
    for verdict in verdicts:
        told = [*verdict.violated, *verdict.undecided, *filter(None, [verdict.unreadable])]
        for evidence in told:
            print(f"\n{paint.in_(COLOURS[verdict.state], verdict.invariant.number)}  {evidence}")


async def _sweep(clone: Clone, args: argparse.Namespace) -> int:
    folder = clone.chaos
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "sweep.jsonl"
    if args.again:
        journal.unlink(missing_ok=True)
    stopped = ""
    async with Lab(clone, folder) as lab:
        print(f"starting {', '.join(shop.STORES)} and the services, with a proxy on every edge ...", flush=True)
        servers = await lab.start(shop.STORES, shop.SETTINGS)
        urls = {server.component: server.url for server in servers}
        async with rig.opened(clone, urls, among=folder) as one, place.books(folder) as books:
            await _stock(clone, urls, one)
            try:
                await _kill_one_by_one(sweep.Sweep(one, books, journal), one, folder, args.at_most)
            except NotReached as error:  # what was found until now is written all the same
                stopped = str(error)
    runs = sweep.read(journal)
    if args.write:
        text = report.edges(runs, tuple(checker.INVARIANTS), repeats=sweep.REPEATS)
        (clone.root / DOCUMENT).write_text(text)
        print(f"written: {DOCUMENT}")
    if stopped or lab.ended_by:
        print(f"The sweep is not at its end{stopped and f': {stopped}'}; the next one goes on from here.")
    broken = [run for run in runs if run.state in {"violated", "unfinished"}]
    print(f"{len(runs)} edges, at {len(broken)} of them the shop did not keep its word.")
    return VIOLATED if broken else UNREAD if stopped or lab.ended_by else 0


async def _stock(clone: Clone, urls: Mapping[str, str], one: rig.Rig) -> None:
    """A product of which there is enough for every run; it is there already where the sweep goes on."""
    command = [sys.executable, "-m", "faultline.shop.seed", "--products", "1"]
    process = await asyncio.create_subprocess_exec(
        *command, env={**clone.environment, **shop.variables(urls)}, stdout=subprocess.DEVNULL
    )
    if await process.wait():
        raise UsageError(f"{' '.join(command)} ended with {process.returncode}")
    await one.put("inventory", f"/v1/stock/{await one.sku()}/receipts/sweep", {"quantity": STOCKED})


async def _kill_one_by_one(edges: sweep.Sweep, one: rig.Rig, folder: Path, at_most: int) -> None:
    paint, sku = Paint.for_(), await one.sku()
    buyer = Buyer("sweep", one.urls("orders"), History(folder / place.HISTORY))

    async def bought_and_given_back(key: str) -> Bought:
        bought = await buyer.buy({sku: 1}, key=key, within=sweep.WITHIN)
        return bought if bought.status != "confirmed" else await buyer.give_back(bought.order, within=sweep.WITHIN)

    async with edges.watching():
        done = 0
        async for run in edges.runs(bought_and_given_back, at_most=at_most):
            done += 1
            state = paint.in_(COLOURS[run.state], f"{run.state:<10}")
            print(f"{done:>4}  {state} {run.seconds:>5.1f} s  {run.status:<9}  {run.edge}", flush=True)
            for evidence in run.evidence:
                print(f"      {evidence}", flush=True)
