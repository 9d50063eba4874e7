"""Two clones side by side share nothing; the same clone twice says who has it."""

import shutil
import signal
from pathlib import Path

import pytest
from tests.end_to_end.typed import MODULE, Typed, clone_at

pytestmark = pytest.mark.once


def test_two_clones_run_side_by_side_and_end_one_by_one(clone: Typed, tmp_path: Path) -> None:
    other = clone_at(tmp_path / "clone-2")
    with clone.up() as first, other.up() as second:
        before = {process.pid for process in other.running()}
        with clone.begin("check", "redis/05", "--solution", str(MODULE / "solution")) as one:
            assert other.type("check", "redis/05", "--solution", str(MODULE / "solution")).returncode == 0
            one.communicate(timeout=50)
            assert one.returncode == 0
        assert clone.type("down").stdout == "The lab has stopped: redis.\n"
        assert first.wait(20) == 0
        clone.until_nothing_runs()
        for verb in ("status", "down", "clean", "next"):
            assert clone.type(verb).returncode == 0
        assert {process.pid for process in other.running()} == before
        assert f"The lab runs as process {second.pid}" in other.type("status").stdout
        second.send_signal(signal.SIGINT)
        assert second.wait(20) == 0
    other.until_nothing_runs()


def test_the_second_lab_of_a_clone_says_who_runs_the_first(clone: Typed) -> None:
    with clone.up() as lab:
        second = clone.type("up", "redis")
        assert second.returncode == 2
        assert f"lab up: process {lab.pid} already runs servers in {clone.state / 'run'}; " in second.stderr
        assert "./lab down" in second.stderr
        assert lab.poll() is None
        assert clone.type("down").returncode == 0


def test_a_copy_of_a_running_clone_leaves_the_original_alone(clone: Typed, tmp_path: Path) -> None:
    with clone.up() as lab:
        shutil.copytree(clone.root, tmp_path / "copy", symlinks=True)
        copy = Typed(tmp_path / "copy")
        early = Typed(tmp_path / "early")  # copied before the original had a server on record
        shutil.copytree(clone.root, early.root, symlinks=True)
        (early.state / "run" / "redis" / "instance.json").unlink()
        assert early.type("status").stdout == "The lab is not running. Start it with: ./lab up\n"
        before = {process.pid for process in clone.running()}
        assert copy.type("status").stdout == "The lab is not running. Start it with: ./lab up\n"
        assert copy.type("down").stdout == "The lab is not running; nothing to stop.\n"
        with copy.up() as another:
            assert copy.type("down").returncode == 0
            assert another.wait(20) == 0
        assert {process.pid for process in clone.running()} == before
        assert lab.poll() is None
        assert clone.type("down").returncode == 0
