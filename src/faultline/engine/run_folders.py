"""Folders of runs under `.lab/runs/`, named after the process that asked for them, so that none outlives it for long.

A run removes its folder itself. What a run could not remove because everything of it was killed, the next run
does: a folder whose owner is gone is swept, with the processes that its runs have left.
"""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

from faultline.components import processes, sweep
from faultline.components.room import require_room

_NAME = re.compile(r"(?P<owner>(?P<pid>\d+)\.(?P<started>\d+))-.+")
_runs = itertools.count(1)


def run_folder(root: Path, what: str = "run") -> Path:
    """A name for a new run's folder, which nobody else uses; `what` is for whoever looks at it.

    Raises `OSError` where a run has no room.
    """
    require_room(root / ".lab" / "runs")
    return root / ".lab" / "runs" / f"{_owner()}-{what}-{next(_runs)}"


def owner_mark(root: Path) -> dict[str, str]:
    """What the environment of every process must hold that is started for this process's runs."""
    return {processes.MARK: str(_kin(root / ".lab" / "runs", _owner()).folder)}


async def sweep_runs(root: Path) -> list[Path]:
    """End and remove what runs of dead owners have left in this clone; the folders that were removed."""
    runs = root / ".lab" / "runs"
    found = [(path, match) for path in runs.glob("*") if (match := _NAME.fullmatch(path.name))]
    left = [(path, match["owner"]) for path, match in found if not _lives(int(match["pid"]), int(match["started"]))]
    for owner in {owner for _, owner in left}:
        await processes.kill(_kin(runs, owner))
    for path, _ in left:
        for supervised in (path, *path.glob("*/")):  # an example's servers, and each testbed's
            await sweep(supervised)
        remove(path)
    return [path for path, _ in left]


def remove(folder: Path) -> None:
    """Remove a run's folder with all that is in it, also what the learner's code has locked."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # locked, or nested too deep for Python
        for command in ("chmod", "-R", "u+rwx"), ("rm", "-rf"):
            subprocess.run([*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def _owner() -> str:
    me = processes.look(os.getpid())
    assert me is not None
    return f"{me.pid}.{me.started}"


def _lives(pid: int, started: int) -> bool:
    process = processes.look(pid)
    return process is not None and process.started == started


def _kin(runs: Path, owner: str) -> processes.Kin:
    return processes.Kin(folder=runs.resolve() / owner, program="", leader=None)
