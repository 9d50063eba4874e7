"""`./lab bench TOPIC`: our patterns beside popular libraries, and the shop beside its limits, as ratios in one run."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from faultline.components.processes import tied
from faultline.engine.atomic_write import write_atomically

BENCHES: dict[str, tuple[str, ...]] = {
    "redis": (
        "bench.cache",
        "bench.write_behind",
        "bench.coherent_cache",
        "bench.lock",
        "bench.rate_limiter",
        "bench.sessions",
        "bench.leaderboard",
    ),
    "shop": ("bench.gateway", "bench.event_store", "bench.saga", "bench.checkout", "bench.search"),
}
PAGES = Path("docs") / "benchmarks"
_INTRODUCTION = """\
# Benchmarks: {topic}

What `./lab bench {topic} --write` printed on {day} (UTC), whole: our patterns and others in one run, taking turns,
each beside the bare work on the same server. Compare ratios; microseconds belong to the machine, which each part
names with its load, versions and seed. A goal that is `MISSED` is missed.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("topic", choices=sorted(BENCHES))
    parser.add_argument("--write", action="store_true", help=f"keep what is printed in {PAGES}/TOPIC.md")


def run(args: argparse.Namespace, root: Path) -> int:
    """Run the topic's benchmarks one after the other; 1 if one of them missed a goal or could not measure."""
    measured = [(module, *_measure(module, root)) for module in BENCHES[args.topic]]
    if args.write:
        (root / PAGES).mkdir(parents=True, exist_ok=True)
        text = page(args.topic, datetime.now(UTC), [one[:2] for one in measured])
        write_atomically(root / PAGES / f"{args.topic}.md", text)
    return 1 if any(code for _, _, code in measured) else 0


def page(topic: str, when: datetime, measured: Sequence[tuple[str, str]]) -> str:
    """The page's text: for each module of bench/ what it printed."""
    parts = [_INTRODUCTION.format(topic=topic, day=f"{when:%Y-%m-%d}")]
    parts += [
        f"## {module.partition('.')[2].replace('_', ' ').capitalize()}\n\n```text\n{printed.strip()}\n```\n"
        for module, printed in measured
    ]
    return "\n".join(parts)


def _measure(module: str, root: Path) -> tuple[str, int]:
    """What it printed, shown as it comes, and its exit code."""
    printed = list[str]()
    with subprocess.Popen(
        tied([sys.executable, "-u", "-m", module], os.environ), cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line.rstrip() + "\n")
    return "".join(printed), process.returncode
