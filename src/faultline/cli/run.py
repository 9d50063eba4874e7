"""`./lab run MODULE`: the module's example, on real servers that live as long as it does."""

import argparse
import asyncio
import os
import shutil
import sys
from pathlib import Path

from faultline.components import Clone, Supervisor, processes
from faultline.engine import exercise, roadmap
from faultline.engine.errors import BadModule
from faultline.engine.exercise import Exercise
from faultline.engine.module_names import find_module
from faultline.engine.run_folders import owner_mark, run_folder, sweep_runs


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")


def run(args: argparse.Namespace, root: Path) -> int:
    """Start what the example needs, run it, stop everything; its exit code tells whether its claims held."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    example = chosen.module.path / "example.py"
    if not example.is_file():
        raise BadModule(f"{example} is missing; restore it with git checkout")
    return 0 if asyncio.run(_run(chosen, example, root)) == 0 else 1


async def _run(chosen: Exercise, example: Path, root: Path) -> int:
    await sweep_runs(root)
    folder = run_folder(root, "example")
    try:
        async with Supervisor(folder, Clone(root, dict(os.environ))) as supervisor:
            environment = {**os.environ, **owner_mark(root)}
            for component, count in chosen.toml.example.items():
                instances = await asyncio.gather(*(supervisor.start(component) for _ in range(count)))
                urls = [instance.url for instance in instances]
                environment[f"{component.upper()}_URL"] = urls[0]
                environment[f"{component.upper()}_URLS"] = ",".join(urls)
            code, _ = await processes.run(
                [sys.executable, str(example)], folder=example.parent, environment=environment, shown=True
            )
            return code
    finally:
        shutil.rmtree(folder, ignore_errors=True)
