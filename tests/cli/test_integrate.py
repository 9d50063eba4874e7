"""`./lab integrate`: what is right stands it in the shop; what is not is told by what it did there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faultline.components import Clone
from faultline.engine import exercise, roadmap
from faultline.engine.module_names import find_module

pytestmark = [
    pytest.mark.once,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("integrate"),  # one at a time in a clone
]
MODULE = Path("sandbox", "redis-learning", "05-distributed-locks")
NO_LOCK = """
class LockUnavailable(Exception): pass
class Lease:
    token = 1
    async def __aenter__(self): return self
    async def __aexit__(self, *error): pass
class DistributedLock:
    def __init__(self, clients, name, ttl): pass
    async def acquire(self, timeout): return Lease()
"""


def integrate(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "faultline.cli", "integrate", *words]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_the_reference_stands_it() -> None:
    done = integrate("redis/05", "--solution", str(Clone.here().root / MODULE / "solution"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "50 units, 50 orders" in done.stdout
    assert not Clone.here().integrate.exists()


def test_who_locks_nothing_is_told_what_that_did(tmp_path: Path) -> None:
    (tmp_path / "lock.py").write_text(NO_LOCK)
    done = integrate("redis/05", "--solution", str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken" in done.stdout


def test_a_lock_that_lets_nobody_in_is_told(tmp_path: Path) -> None:
    nobody = NO_LOCK.replace("return Lease()", "raise LockUnavailable")
    assert nobody != NO_LOCK
    (tmp_path / "lock.py").write_text(nobody)
    done = integrate("redis/05", "--solution", str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "does the lock let anyone in" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_ranking_that_is_right_stands_it() -> None:
    folder = Clone.here().root / "sandbox" / "redis-learning" / "08-leaderboard-sorted-sets" / "solution"
    done = integrate("redis/08", "--solution", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken" not in done.stdout


@pytest.mark.parametrize(
    ("name", "promise"), [("read, add, write back", "every look counts"), ("ranks from 0", "every ranking goes from 1")]
)
def test_a_ranking_that_is_not_is_told_what_it_broke(name: str, promise: str, tmp_path: Path) -> None:
    done = integrate("redis/08", "--solution", str(mutant("redis/08", name, tmp_path)))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"broken  {promise}" in done.stdout


def test_what_cannot_be_integrated_is_a_sentence(tmp_path: Path) -> None:
    for words in (("redis/01",), ("redis/05", "--solution", str(tmp_path))):
        done = integrate(*words)
        assert done.returncode == 2, done
        assert done.stderr.startswith("lab integrate: ")


def mutant(module: str, name: str, folder: Path) -> Path:
    """A folder with the module's solution, spoilt in that way."""
    chosen = exercise.load(find_module(roadmap.load(Clone.here().root), module))
    spoilt = next(one for one in chosen.mutants if one.name == name)
    (folder / chosen.toml.files[0]).write_text(chosen.mutated(spoilt))
    return folder


def test_a_limiter_that_is_exact_stands_it() -> None:
    folder = Clone.here().root / "sandbox" / "redis-learning" / "06-rate-limiting" / "solution"
    done = integrate("redis/06", "--solution", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken" not in done.stdout


@pytest.mark.parametrize(
    ("name", "promise"),
    [
        ("fixed window", "no more than 20"),
        ("twice as cautious", "as soon as there is room"),
    ],
)
def test_a_limiter_that_is_not_is_told_what_it_broke(name: str, promise: str, tmp_path: Path) -> None:
    done = integrate("redis/06", "--solution", str(mutant("redis/06", name, tmp_path)))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"broken  {promise}" in done.stdout
