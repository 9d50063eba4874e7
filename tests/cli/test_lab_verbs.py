"""The verbs about a running lab, as typed, on a clone of their own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import pytest

from faultline.components import Clone, records
from faultline.components.ports import reserved
from faultline.components.processes import look

LAB = """
import asyncio
from faultline.components import Clone
from faultline.engine.lab import Lab

async def main():
    async with Lab(Clone.here()) as lab:
        servers = await lab.start(["redis"])
        print("ready", *(server.pid for server in servers), flush=True)
        async for server in lab.deaths():
            print("died", server.name, flush=True)
    print("ended by", lab.ended_by.name, flush=True)

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A clone with nothing in it but the locks and what was fetched already."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LAB_ROOT": str(self.root), "NO_COLOR": "1"}

    def type(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "faultline.cli", *words],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=40,
        )

    @contextmanager
    def up(self, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
        """A running lab, and its Redis's pid."""
        with subprocess.Popen(
            [sys.executable, "-c", LAB],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as lab:
            assert lab.stdout
            try:
                yield lab, int(lab.stdout.readline().split()[1])
            finally:
                lab.kill()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    here = Clone.here()
    (tmp_path / ".lab").mkdir()
    (tmp_path / ".venv").symlink_to(here.root / ".venv")
    (tmp_path / "requirements").symlink_to(here.root / "requirements")
    return Place(tmp_path)


def until(condition: Callable[[], bool], within: float = 10) -> None:
    deadline = monotonic() + within
    while not condition():
        assert monotonic() < deadline
        sleep(0.005)


def stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: (now := look(pid)) is not None and now.state == "T")


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether the signal waits to be delivered."""
    status = Path(f"/proc/{pid}/status").read_text()
    shared = re.search(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)
    return bool(shared and int(shared[1], 16) & 1 << number - 1)


def test_without_a_lab_every_verb_says_so(place: Place) -> None:
    assert place.type("status").stdout == "The lab is not running. Start it with: ./lab up\n"
    assert place.type("down").stdout == "The lab is not running; nothing to stop.\n"
    assert place.type("clean").stdout.startswith("Nothing was fetched or built yet")
    logs = place.type("logs", "redis")
    assert (logs.returncode, logs.stderr) == (
        2,
        "lab logs: no log of 'redis'; none was started here yet: ./lab up\n",
    )


def test_status_shows_what_runs(place: Place) -> None:
    with place.up() as (lab, redis):
        shown = place.type("status").stdout
        assert re.search(rf"redis +running +\d+ +{redis} +\d.*B +\d+ s +redis://127.0.0.1:", shown)
        assert f"The lab runs as process {lab.pid}: 1 server" in shown

        told = json.loads(place.type("status", "--json").stdout)
        assert told["lab"] == lab.pid
        (server,) = told["servers"]
        assert (server["name"], server["state"], server["pid"]) == ("redis", "running", redis)
        assert server["memory"] > 1_000_000

        stopped(redis)
        assert json.loads(place.type("status", "--json").stdout)["servers"][0]["state"] == "paused"
        os.kill(redis, signal.SIGKILL)
        assert lab.stdout
        assert lab.stdout.readline() == "died redis\n"
        assert json.loads(place.type("status", "--json").stdout)["servers"][0]["state"] == "ended"


def test_down_stops_the_lab_and_says_what(place: Place) -> None:
    with place.up() as (lab, redis):
        stopped(redis)  # behind the lab's back: it will use up its grace
        done = place.type("down")
        assert (done.returncode, done.stdout) == (0, "The lab has stopped: redis.\n")
        assert not look(redis)
        assert lab.stdout
        assert lab.stdout.readline() == "ended by SIGTERM\n"
        assert lab.wait() == 0


def test_a_server_that_cannot_start_is_one_clear_error(place: Place) -> None:
    with (
        reserved() as port,
        subprocess.Popen(
            [sys.executable, "-c", LAB],
            env={**place.environment, "LAB_REDIS_URL": f"redis://127.0.0.1:{port}"},
            stderr=subprocess.PIPE,
            text=True,
        ) as lab,
    ):
        assert lab.stderr
        last = lab.stderr.read().splitlines()[-1]
    assert last.startswith("faultline.components.errors.StartFailed: redis at redis://127.0.0.1:")


def test_ctrl_c_ends_the_lab_without_an_error(place: Place) -> None:
    with place.up() as (lab, redis):
        lab.send_signal(signal.SIGINT)
        assert lab.wait(10) == 0
        assert not look(redis)
        assert lab.stdout
        assert lab.stdout.readline() == "ended by SIGINT\n"


def test_ctrl_c_twice_does_not_wait_for_a_server_that_does_not_stop(place: Place) -> None:
    with place.up() as (lab, redis):
        stopped(redis)  # behind the lab's back: it will not hear the stop signal
        lab.send_signal(signal.SIGINT)
        begun = monotonic()
        until(lambda: pending(redis, signal.SIGTERM))
        lab.send_signal(signal.SIGINT)
        assert lab.wait(10) == 0
        assert monotonic() - begun < 4
        assert not look(redis)


@pytest.mark.parametrize("verb", ["status", "down", "clean"])
def test_the_next_verb_ends_what_a_dead_lab_left_and_nothing_else(place: Place, verb: str) -> None:
    with place.up(PATH="/nowhere") as (lab, redis):  # without setpriv on PATH, so that it outlives the lab
        lab.kill()
        lab.wait()
        assert look(redis)
        with subprocess.Popen(["sleep", "60"], cwd=place.root / ".lab" / "run" / "redis") as stranger:
            try:
                said = place.type(verb).stderr
                assert look(stranger.pid)
            finally:
                stranger.kill()
            assert "The lab had died; ended what it left running: redis." in said
            assert not look(redis)
    assert "had died" not in place.type(verb).stderr


def test_logs_are_there_while_it_runs_and_after(place: Place) -> None:
    with place.up():
        assert "Ready to accept connections" in place.type("logs", "redis").stdout
        place.type("down")
        assert len(place.type("logs", "redis", "-n", "2").stdout.splitlines()) == 2
    unknown = place.type("logs", "reddis")
    assert (unknown.returncode, unknown.stderr) == (2, "lab logs: no log of 'reddis'; there is redis\n")


def test_logs_follow(place: Place) -> None:
    with (
        place.up() as (lab, _),
        subprocess.Popen(
            [sys.executable, "-m", "faultline.cli", "logs", "-f", "redis"],
            env=place.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as follow,
    ):
        assert follow.stdout
        seen = follow.stdout.readline()
        assert seen
        lab.send_signal(signal.SIGINT)
        while "bye bye" not in seen:
            seen = follow.stdout.readline()
        follow.kill()


def test_clean_lists_and_removes_only_what_is_named(place: Place) -> None:
    keep = [place.root / "workspace" / "lock.py", place.root / ".lab" / "progress.db"]
    for path in keep:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with place.up():
        listed = json.loads(place.type("clean", "--json").stdout)
        assert listed.keys() == {"redis", "run"}
        assert listed["redis"]["bytes"] > 10_000_000
        refused = place.type("clean", "redis")
        assert refused.returncode == 2
        assert re.search(r"process \d+ uses .*/.lab/run; stop it first .*Nothing was removed", refused.stderr)
        place.type("down")

    wrong = place.type("clean", "workspace")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "lab clean: nothing called workspace; there is: redis, run\n",
    )
    assert re.fullmatch(r"removed redis: \d.* MB\n", place.type("clean", "redis").stdout)
    assert json.loads(place.type("clean", "--json").stdout).keys() == {"run"}
    place.type("clean", "run")
    assert place.type("clean").stdout.startswith("Nothing was fetched or built yet")
    assert all(path.read_text() == "mine" for path in keep)


def test_two_clones_run_side_by_side(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    (other.root / ".lab").mkdir(parents=True)
    (other.root / ".venv").symlink_to(place.root / ".venv")
    (other.root / "requirements").symlink_to(place.root / "requirements")
    with place.up() as (_, first), other.up() as (_, second):
        place.type("down")
        assert not look(first)
        assert look(second)
        assert [record.name for record in records.read(other.root / ".lab" / "run")] == ["redis"]
