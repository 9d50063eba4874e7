"""`./lab doctor`: what this machine can and cannot run, and why."""

import argparse
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.filesize import decimal

from faultline.cli.columns import terminal_width
from faultline.cli.needs import Need, Room, needs, rows
from faultline.cli.paint import Paint
from faultline.components import CATALOG, Clone, Component, ComponentError
from faultline.components.addresses import shown
from faultline.components.identity import anybody_but_root
from faultline.components.providers import Absent, Fetchable, Given, Offer, Program, find_uv
from faultline.engine.errors import EngineError

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
    """Look at the machine, every component and every module; exit code 2 when a built module cannot run."""
    clone = Clone(root, os.environ)
    room = Room(_free_memory(), shutil.disk_usage(root).free)
    machine = [_python(), _uv(clone), _memory(), _disk(root), _processes(clone), _users(clone)]
    surveyed = [_survey(component, clone) for component in CATALOG.values()]
    components = [finding for finding, _ in surveyed]
    chosen = {finding.name: offer for finding, offer in surveyed}
    try:
        needed = needs(root, chosen, room)
    except EngineError as error:
        needed = []
        machine.append(Finding("roadmap", fine=False, seen=str(error)))
    cannot = [finding.name for finding in machine if not finding.fine]
    cannot += [need.name for need in needed if need.built and (need.why_not or need.unknown)]
    if args.json:
        parts: dict[str, Sequence[Finding | Need]] = {"machine": machine, "components": components, "needs": needed}
        print(json.dumps({part: [asdict(found) for found in all_] for part, all_ in parts.items()}, indent=1))
        return 2 if cannot else 0
    _show(machine, components)
    if needed:
        _show_needs(needed)
    print()
    print(_summary(cannot, [finding.name for finding in components if not finding.fine]))
    return 2 if cannot else 0


def _summary(cannot: Sequence[str], missing: Sequence[str]) -> str:
    if cannot:
        return f"Not fine: {', '.join(cannot)}; the lines above say what to type."
    if missing:
        return f"All built modules can run here. Not here: {', '.join(missing)}; the lines above say what to type."
    return "Everything that is built can run here."


def _python() -> Finding:
    version = platform.python_version()
    fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", fine, f"{version}, {sys.executable}", do="" if fine else RENEW)


def _uv(clone: Clone) -> Finding:
    try:
        return Finding("uv", fine=True, seen=find_uv(clone))
    except ComponentError as error:
        return Finding("uv", fine=False, seen=str(error), do=RENEW)


def _free_memory() -> int:
    return _meminfo()["MemAvailable"]


def _meminfo() -> dict[str, int]:
    rows = (row.split(":", 1) for row in Path("/proc/meminfo").read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in rows}


def _memory() -> Finding:
    total, free = (_meminfo()[row] for row in ("MemTotal", "MemAvailable"))
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


def _survey(component: type[Component], clone: Clone) -> tuple[Finding, Offer]:
    """What is said of a component, and the offer that would be taken."""
    try:
        offers = component.sources.survey(clone)
    except ComponentError as error:
        offers = [Absent("none", str(error))]
    chosen = next((offer for offer in offers if not isinstance(offer, Absent)), offers[0])
    size = f"{decimal(component.memory)} of memory, {decimal(component.disk)} of disk; {component.purpose}"
    absent = [f"{offer.provider}: {offer.reason}" for offer in offers if isinstance(offer, Absent)]
    if isinstance(chosen, Absent):
        do = "unset LAB_PROVIDER" if chosen.provider == "none" else component.sources.install
        return Finding(component.name, fine=False, seen="no provider has it", details=(size, *absent), do=do), chosen
    absent = [line for line in absent if not line.startswith("address: ")]  # nobody misses it
    seen, *where = [words.replace(f"{clone.root}/", "") for words in _in_words(chosen)]
    return Finding(component.name, fine=True, seen=seen, details=(*where, size, *absent)), chosen


def _in_words(offer: Program | Given | Fetchable) -> list[str]:
    """What it is, then where it lies."""
    match offer:
        case Given(provider, url):
            return [f"{provider}: {shown(url)}"]
        case Program(provider, path):
            return [f"{provider}: {offer.version()}", str(path), *([str(offer.folder)] if offer.folder else [])]
        case Fetchable(provider, what):
            return [f"{provider}: {what}, fetched when first needed"]


def _show(machine: Sequence[Finding], components: Sequence[Finding]) -> None:
    paint = Paint.for_()
    width = max(len(finding.name) for finding in [*machine, *components])
    for title, findings in (("This machine", machine), ("Components", components)):
        print(paint.bold(title))
        for finding in findings:
            first, *more = _wrapped(finding.seen, width)
            print(f"  {_mark('ok' if finding.fine else 'no', paint)}  {finding.name:<{width}}  {first}")
            for line in more:
                print(f"      {'':<{width}}  {line}")
            for line in (line for detail in finding.details for line in _wrapped(detail, width)):
                print(paint.dim(f"      {'':<{width}}  {line}"))
            for line in _wrapped(finding.do, width) if finding.do else ():
                print(f"      {'':<{width}}  {paint.in_('yellow', line)}")


def _wrapped(text: str, width: int) -> list[str]:
    room = terminal_width() - width - 8
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def _show_needs(found: Sequence[Need]) -> None:
    paint = Paint.for_()
    head = ("", "", "memory", "disk", "to fetch", "for one of each of")
    widths = [max(len(row[column]) for row in [head, *rows(found)]) for column in range(5)]
    indent = 2 + sum(widths) + 2 * len(widths)
    for title, part in (
        ("Modules", [need for need in found if need.built]),
        ("Topics that are not all built yet, as planned", [need for need in found if not need.built]),
    ):
        print(paint.bold(title))
        for row in [head, *rows(part)]:
            mark, name, *sizes, words = row
            first, *more = textwrap.wrap(words, terminal_width() - indent)
            cells = [f"{size:>{width}}" for size, width in zip(sizes, widths[2:], strict=True)]
            line = "  ".join(["  " + _mark(f"{mark:<{widths[0]}}", paint), f"{name:<{widths[1]}}", *cells, first])
            print(paint.dim(line) if row is head else line)
            for rest in more:
                print(" " * indent + rest)


def _mark(mark: str, paint: Paint) -> str:
    colours = {"ok": "green", "no": "red", "--": "dim"}
    return paint.in_(colours[mark], mark) if mark in colours else mark
