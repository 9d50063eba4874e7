"""`./lab run WHAT`: the example of a module or a topic, on real servers that live as long as it does."""

import argparse
import asyncio
import os
import shutil
import sys
from pathlib import Path

from faultline.cli import endings
from faultline.components import Clone, Supervisor, processes
from faultline.engine import roadmap
from faultline.engine.examples import Example, find_example
from faultline.engine.run_folders import owner_mark, run_folder, sweep_runs


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("what", help="a module such as redis/05, or a topic such as redis")


def run(args: argparse.Namespace, root: Path) -> int:
    """Start what the example needs, run it, stop everything; its exit code tells whether its claims held."""
    return 0 if endings.run(_run(find_example(roadmap.load(root), args.what), root)) == 0 else 1


async def _run(example: Example, root: Path) -> int:
    await sweep_runs(root)
    folder = run_folder(root, "example")
    try:
        async with Supervisor(folder, Clone(root, dict(os.environ))) as supervisor:
            environment = {**os.environ, **owner_mark(root)}
            for component, count in example.servers.items():
                instances = await asyncio.gather(*(supervisor.start(component) for _ in range(count)))
                urls = [instance.url for instance in instances]
                environment[f"{component.upper()}_URL"] = urls[0]
                environment[f"{component.upper()}_URLS"] = ",".join(urls)
            code, _ = await processes.run(
                [sys.executable, str(example.path)], folder=example.path.parent, environment=environment, shown=True
            )
            return code
    finally:
        shutil.rmtree(folder, ignore_errors=True)
