"""Folders of runs under `.lab/runs/`, named after the process that asked for them, so that none outlives it for long.

Those of a proof, which come and go by the hundred, lie in memory where there is enough of it.

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
from faultline.components.room import in_memory, memory_of, require_room

_NAME = re.compile(r"(?P<owner>(?P<pid>\d+)\.(?P<started>\d+))-.+")
_runs = itertools.count(1)
RUNS = "runs"


def run_folder(root: Path, what: str = "run", *, brief: bool = False) -> Path:
    """A name for a new run's folder, which nobody else uses; `what` is for whoever looks at it.

    `brief`: in memory, if it can be. Raises `OSError` where a run has no room.
    """
    memory = in_memory(root) if brief else None
    runs = memory / RUNS if memory else root / ".lab" / "runs"
    require_room(runs)
    return runs / f"{_owner()}-{what}-{next(_runs)}"


def owner_mark(root: Path) -> dict[str, str]:
    """What the environment of every process must hold that is started for this process's runs."""
    return {processes.MARK: str(_kin(root / ".lab" / "runs", _owner()).folder)}


def present(root: Path) -> list[Path]:
    """What is there of runs, on the disk and in memory."""
    return [*(root / ".lab" / "runs").glob("*"), *(memory_of(root) / RUNS).glob("*")]


def leave_memory(root: Path) -> None:
    """Take the clone's folder in memory away, if nothing is in it."""
    for folder in (memory_of(root) / RUNS, memory_of(root)):
        with contextlib.suppress(OSError):
            folder.rmdir()


async def sweep_runs(root: Path) -> list[Path]:
    """End and remove what runs of dead owners have left in this clone; the folders that were removed.

    Not those of the caller's own owner, should that one have died just now: the caller would stop itself half-way.
    """
    runs = root / ".lab" / "runs"
    found = [(path, match) for path in present(root) if (match := _NAME.fullmatch(path.name))]
    mine = os.environ.get(processes.MARK)
    left = [
        (path, match["owner"])
        for path, match in found
        if not _lives(int(match["pid"]), int(match["started"])) and str(_kin(runs, match["owner"]).folder) != mine
    ]
    for owner in {owner for _, owner in left}:
        await processes.kill(_kin(runs, owner))
    for path, _ in left:
        for supervised in (path, *path.glob("*/")):  # an example's servers, and each testbed's
            await sweep(supervised)
        remove(path)
    leave_memory(root)
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
