"""`./lab status`: what runs now."""

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from rich.filesize import decimal

from faultline.cli.columns import pad
from faultline.cli.paint import Paint
from faultline.components import Clone, Record
from faultline.components.addresses import shown
from faultline.components.processes import STOPPED, memory
from faultline.components.records import owner, read


def configure(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace, root: Path) -> int:
    """Show the lab's servers."""
    clone = Clone(root, os.environ)
    lab = owner(clone.run)
    servers = [_describe(record) for record in read(clone.run)]
    if args.json:
        print(json.dumps({"lab": lab, "servers": servers}, indent=1))
        return 0
    if lab is None:
        print("The lab is not running. Start it with: ./lab up")
        return 0
    for line in _table(servers, Paint.for_()):
        print(line)
    total = decimal(sum(int(server["memory"] or 0) for server in servers))
    print(f"\nThe lab runs as process {lab}: {len(servers)} servers, {total}. Stop it with: ./lab down")
    return 0


def _describe(record: Record) -> dict[str, str | int | None]:
    members = record.kin.members()
    state = "ended" if record.pid else "given"
    if members:
        state = "paused" if members[0].state in STOPPED else "running"
    return {
        "name": record.name,
        "component": record.component,
        "provider": record.provider,
        "state": state,
        "url": shown(record.url),
        "port": record.port,
        "pid": record.pid,
        "memory": memory(members),
        "since": record.since,
    }


def _table(servers: list[dict[str, str | int | None]], paint: Paint) -> list[str]:
    colours = {"running": "green", "given": "green", "paused": "yellow", "ended": "red"}
    head = ["name", "state", "port", "pid", "memory", "since", "address"]
    rows = [
        [
            str(server["name"]),
            str(server["state"]),
            str(server["port"]),
            str(server["pid"] or "-"),
            decimal(int(server["memory"] or 0)),
            ago(str(server["since"])),
            str(server["url"]),
        ]
        for server in servers
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [paint.dim("  ".join(pad(word, width) for word, width in zip(head, widths, strict=True)).rstrip())]
    for row in rows:
        cells = [pad(word, width) for word, width in zip(row, widths, strict=True)]
        cells[1] = paint.in_(colours[row[1]], cells[1])
        lines.append("  ".join(cells).rstrip())
    return lines


def ago(since: str) -> str:
    """How long it is since then, ISO 8601, in the largest unit that fits."""
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds(), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
