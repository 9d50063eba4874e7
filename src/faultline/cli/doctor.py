"""`./lab doctor`: what this machine can and cannot run, and why."""

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.filesize import decimal

from faultline.cli.paint import Paint
from faultline.components import CATALOG, Clone, Component, ComponentError
from faultline.components.identity import anybody_but_root
from faultline.components.providers import Absent, Fetchable, Given, Offer, Program, find_uv

GIGABYTE = 10**9
RENEW = "rm -rf .venv && ./lab status"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    fine: bool
    seen: str
    details: tuple[str, ...] = ()
    do: str = ""
    """What to type when it is not fine, or what would make it better."""


def configure(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace, root: Path) -> int:
    """Look at the machine and at every component; exit code 2 when something cannot run."""
    clone = Clone(root, os.environ)
    machine = [_python(), _uv(clone), _memory(), _disk(root), _processes(clone), _users(clone)]
    components = [_component(component, clone) for component in CATALOG.values()]
    missing = [finding for finding in machine + components if not finding.fine]
    if args.json:
        findings = {"machine": machine, "components": components}
        print(json.dumps({part: [asdict(found) for found in all_] for part, all_ in findings.items()}, indent=1))
    else:
        _show(machine, components)
        names = ", ".join(finding.name for finding in missing)
        print(f"\nNot fine: {names}; the lines above say what to type." if missing else "\nEverything can run here.")
    return 2 if missing else 0


def _python() -> Finding:
    version = platform.python_version()
    fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", fine, f"{version}, {sys.executable}", do="" if fine else RENEW)


def _uv(clone: Clone) -> Finding:
    try:
        return Finding("uv", fine=True, seen=find_uv(clone))
    except ComponentError as error:
        return Finding("uv", fine=False, seen=str(error), do=RENEW)


def _memory() -> Finding:
    rows = dict(row.split(":", 1) for row in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(rows[row].split()[0]) * 1024 for row in ("MemTotal", "MemAvailable"))
    fine = free > GIGABYTE // 2
    seen = f"{decimal(free)} free of {decimal(total)}, {os.cpu_count()} processors"
    return Finding("memory", fine, seen, do="" if fine else "close something: the lab wants 0.5 GB")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    fine = free > GIGABYTE and os.access(root, os.W_OK)
    seen = f"{decimal(free)} free at {root}" + ("" if os.access(root, os.W_OK) else ", which you cannot write to")
    return Finding(
        "disk", fine, seen, do="" if fine else "make room (./lab clean shows what can go), or move the clone"
    )


def _processes(clone: Clone) -> Finding:
    if shutil.which("setpriv", path=clone.environment.get("PATH")):
        return Finding("processes", fine=True, seen="servers end with the lab, whatever ends it")
    return Finding(
        "processes",
        fine=True,
        seen="no setpriv: servers of a lab that is killed -9 run until the next ./lab command",
        do="apt install util-linux",
    )


def _users(clone: Clone) -> Finding:
    if os.geteuid() != 0:
        return Finding("user", fine=True, seen="an ordinary user")
    try:
        identity = anybody_but_root(clone.environment)
    except ComponentError as error:
        return Finding("user", fine=False, seen=f"root; PostgreSQL cannot run: {error}", do="apt install util-linux")
    return Finding("user", fine=True, seen=f"root (PostgreSQL refuses it and runs as another, by {identity.prefix[0]})")


def _component(component: type[Component], clone: Clone) -> Finding:
    try:
        offers = component.sources.survey(clone)
    except ComponentError as error:
        return Finding(component.name, fine=False, seen=str(error), do="unset LAB_PROVIDER")
    chosen = next((offer for offer in offers if not isinstance(offer, Absent)), None)
    others = [f"{offer.provider}: {offer.reason}" for offer in offers if isinstance(offer, Absent)]
    if chosen is None:
        return Finding(
            component.name, fine=False, seen="no provider has it", details=tuple(others), do=component.sources.install
        )
    return Finding(
        component.name, fine=True, seen=_in_words(chosen).replace(f"{clone.root}/", ""), details=tuple(others)
    )


def _in_words(offer: Offer) -> str:
    match offer:
        case Given(provider, url):
            return f"{provider}: {url}"
        case Program(provider, path):
            return f"{provider}: {offer.version()}, {path}"
        case Fetchable(provider, what):
            return f"{provider}: {what}, fetched when first needed"
        case Absent(provider, reason):
            return f"{provider}: {reason}"


def _show(machine: Sequence[Finding], components: Sequence[Finding]) -> None:
    paint = Paint.for_()
    width = max(len(finding.name) for finding in [*machine, *components])
    for title, findings in (("This machine", machine), ("Components", components)):
        print(paint.bold(title))
        for finding in findings:
            mark = paint.in_("green", "ok") if finding.fine else paint.in_("red", "no")
            print(f"  {mark}  {finding.name:<{width}}  {finding.seen}")
            for detail in finding.details:
                print(paint.dim(f"      {'':<{width}}  {detail}"))
            if finding.do:
                print(f"      {'':<{width}}  {paint.in_('yellow', finding.do)}")
