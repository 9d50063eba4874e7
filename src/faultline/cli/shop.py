"""`./lab shop up`: the shop, each service in a process of its own on real servers; and what to do with it then."""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from faultline.cli import endings, logs
from faultline.cli.columns import table, terminal_width
from faultline.cli.errors import UsageError
from faultline.cli.paint import Paint
from faultline.cli.status import ago
from faultline.components import Clone, ComponentError, Instance
from faultline.components.component import LOG
from faultline.components.opensearch import OpenSearch
from faultline.components.processes import look, memory
from faultline.components.records import owner, read
from faultline.components.room import available_memory
from faultline.components.supervisor import ask_to_end
from faultline.engine import shop
from faultline.engine.lab import Lab
from faultline.shop.topology import SERVICES

PATIENCE = 45.0  # seconds for an end in order
OR = "or open the shop without what is found by words: ./lab shop up --without-search"


def configure(parser: argparse.ArgumentParser) -> None:
    """What to do with it."""
    what = parser.add_subparsers(
        dest="what", required=True, metavar="up | status | seed | buy | logs | parked | redrive | down"
    )
    up = what.add_parser("up", help="start it, and show where it answers; Ctrl-C stops it")
    up.add_argument(
        "--without-search", action="store_true", help="without OpenSearch: all is sold, nothing is found by words"
    )
    status = what.add_parser("status", help="what runs, and the memory that it holds")
    status.add_argument("--json", action="store_true", help="for programs")
    seed = what.add_parser("seed", help="products, always the same; adds those that are missing")
    seed.add_argument("--products", type=int, default=1000, metavar="N", help="how many there are to be (1000)")
    seed.add_argument("--admin", default="", metavar="EMAIL", help="make whoever has registered so an administrator")
    one = what.add_parser("logs", help="what a service or a server printed, also after it has ended")
    one.add_argument("name", nargs="?", help="as `./lab shop status` shows it")
    logs.how(one)
    parked = what.add_parser("parked", help="messages that no service could handle, and why")
    parked.add_argument("--json", action="store_true", help="for programs")
    redrive = what.add_parser("redrive", help="give what is parked another chance, once the reason is gone")
    redrive.add_argument("queue", help="as `./lab shop parked` shows it")
    buy = what.add_parser("buy", help="walk one order through the shop, and show what happened where, and when")
    buy.add_argument("--sku", help="the product (one that is in stock)")
    buy.add_argument("--quantity", type=int, default=1, metavar="N", help="how many (1)")
    what.add_parser("down", help="stop it, from another terminal")


def run(args: argparse.Namespace, root: Path) -> int:
    """Do it, for the shop of this clone."""
    clone = Clone(root, os.environ)
    match args.what:
        case "up":
            with contextlib.suppress(KeyboardInterrupt):  # before it could listen for it
                endings.run(_up(clone, Paint.for_(), shop.SEARCHLESS if args.without_search else tuple(SERVICES)))
            print("\nThe shop has stopped. What it has sold is kept.")
            return 0
        case "status":
            return _status(clone, as_json=args.json)
        case "seed":
            return _seed(clone, args.products, args.admin)
        case "logs":
            logs.show(_logs(clone), args, none="nothing was started here yet: ./lab shop up")
            return 0
        case "parked":
            return _parked(clone, as_json=args.json)
        case "redrive":
            return _inside(clone, "parked", "--redrive", args.queue).returncode
        case "buy":
            return endings.run(_buy(clone, args.sku, args.quantity))
        case _:
            return endings.run(_down(clone))


async def _up(clone: Clone, paint: Paint, names: tuple[str, ...]) -> None:
    stores = shop.stores(names)
    async with Lab(clone, clone.shop) as lab:
        print(f"starting {', '.join(stores)} ...", flush=True)
        servers = await _started(lab, clone, stores)
        print("starting the services ...", flush=True)
        async with shop.running(clone, {server.component: server.url for server in servers}, names) as services:
            seconds = await services.ready()
            for service in shop.read(services.folder):
                address = f"http://127.0.0.1:{service.port}"
                print(f"  {paint.in_('green', 'ready')}  {service.name:<14} {address}  {address}/docs")
            print(f"\nThe services were ready after {seconds:.1f} s. Products: ./lab shop seed")
            print(paint.dim("Ctrl-C stops the shop. A service that is killed is started again."), flush=True)
            async with asyncio.TaskGroup() as watching:
                watching.create_task(_tell_of_the_dead(lab))
                code = await services.ended()
                raise UsageError(f"the fork-server has ended with {code}: see {services.folder / shop.LOG}")


async def _started(lab: Lab, clone: Clone, stores: Sequence[str]) -> list[Instance]:
    """The servers. Where OpenSearch is what is in the way, there is another way: it is half of the shop's memory."""
    ours = "opensearch" in stores and not clone.environment.get("LAB_OPENSEARCH_URL")
    if ours and (free := available_memory()) < OpenSearch.memory:
        needed = decimal(OpenSearch.memory)
        raise UsageError(f"OpenSearch takes {needed} of memory, and {decimal(free)} are free: close something, {OR}")
    try:
        return await lab.start(stores, shop.SETTINGS)
    except ComponentError as error:
        if "opensearch" in str(error).lower():
            raise UsageError(f"{error}; {OR}") from error
        raise


async def _tell_of_the_dead(lab: Lab) -> None:
    async for server in lab.deaths():
        print(f"\n{server.name} has ended by itself, with {server.exit_code}: see {server.log}", flush=True)


def _status(clone: Clone, *, as_json: bool) -> int:
    pid = owner(clone.shop)
    if pid is None:
        print(json.dumps({"shop": None, "parts": []}) if as_json else "The shop is closed. Open it with: ./lab shop up")
        return 0
    parts: list[dict[str, object]] = []
    for record in read(clone.shop):
        if record.component == "shop":
            leader = look(record.pid) if record.pid else None
            parts.append(_part("fork-server", None, leader.pid if leader else None, memory([leader] if leader else [])))
        else:
            parts.append(_part(record.name, record.port, record.pid, memory(record.kin.members())))
    for one in shop.read(clone.shop / "services"):
        process = look(one.pid) if one.pid else None
        parts.append(_part(one.name, one.port, one.pid, memory([process] if process else []), one.starts))
    if as_json:
        print(json.dumps({"shop": pid, "parts": parts}, indent=1))
        return 0
    rows = [["name", "port", "pid", "memory", "starts"]]
    rows += [
        [
            str(part["name"]),
            str(part["port"] or "-"),
            str(part["pid"] or "-"),
            decimal(int(str(part["memory"]))),
            str(part["starts"]),
        ]
        for part in parts
    ]
    print("\n".join(table(rows, width=100, wrapped=0)))
    return 0


def _part(name: str, port: int | None, pid: int | None, held: int, starts: int = 1) -> dict[str, object]:
    return {"name": name, "port": port, "pid": pid, "memory": held, "starts": starts}


def _seed(clone: Clone, products: int, admin: str) -> int:
    if products < 1:
        raise UsageError(f"{products} products are none: how many are there to be?")
    appointed = ("--admin", admin) if admin else ()
    return _inside(clone, "seed", "--products", str(products), *appointed).returncode


def _logs(clone: Clone) -> dict[str, Path]:
    services = {log.stem: log for log in (clone.shop / "services").glob("*.log")}
    return {log.parent.name: log for log in clone.shop.glob(f"*/{LOG}")} | services


def _parked(clone: Clone, *, as_json: bool) -> int:
    asked = _inside(clone, "parked", output=subprocess.PIPE)
    found = [json.loads(line) for line in (asked.stdout or "").splitlines()]
    if asked.returncode:
        return asked.returncode
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    if not found:
        print("Nothing is parked: every message was handled, or is about to be.")
        return 0
    rows = [["queue", "type", "subject", "age", "reason"]]
    rows += [
        [one["queue"], one["type"], one["subject"], ago(one["time"]) if one["time"] else "-", one["reason"]]
        for one in found
    ]
    print("\n".join(table(rows, width=terminal_width(), wrapped=4)))
    print("\nOnce the reason is gone: ./lab shop redrive QUEUE, within a week.")
    return 0


def _inside(clone: Clone, module: str, *words: str, output: int | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a module of the shop's own on the servers of the shop that runs."""
    if owner(clone.shop) is None:
        raise UsageError("the shop is closed; open it first, in another terminal: ./lab shop up")
    urls = {record.component: record.url for record in read(clone.shop)}
    command = [sys.executable, "-m", f"faultline.shop.{module}", *words]
    environment = {**clone.environment, **shop.variables(urls)}
    return subprocess.run(command, env=environment, stdout=output, text=True, check=False)


async def _buy(clone: Clone, sku: str | None, quantity: int) -> int:
    from faultline.chaos import errors, purchase  # late: only this verb waits for it

    if owner(clone.shop) is None:
        raise UsageError("the shop is closed; open it first, in another terminal: ./lab shop up")
    try:
        bought = await purchase.made(clone.shop, sku=sku, quantity=quantity, told=_said)
    except errors.ChaosError as error:
        raise UsageError(str(error)) from error
    print(f"\n{bought.status}{bought.reason and f': {bought.reason}'} after {bought.seconds:.2f} s")
    return 0 if bought.status == "confirmed" else 1


def _said(seconds: float, what: str) -> None:
    print(f"{seconds:>7.3f} s  {what}", flush=True)


async def _down(clone: Clone) -> int:
    pid = owner(clone.shop)
    if pid is None:
        print("The shop is closed; nothing to stop.")
        return 0
    if not await ask_to_end(clone.shop, within=PATIENCE):
        raise UsageError(
            f"process {pid} did not stop the shop within {PATIENCE:.0f} s; end it with `kill -9 {pid}`, "
            "then `./lab shop down` ends what it leaves"
        )
    print("The shop has stopped.")
    return 0
