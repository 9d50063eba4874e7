"""kill -9 of one process of the lab, or of several, at random moments: nothing is lost, nothing is left.

Every round types a command, kills while it works, and types another one. `FAULTLINE_KILLS` sets how many rounds
there are, `FAULTLINE_SEED` repeats the choices of an earlier run (the moments repeat as well as a machine can).
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from tests.end_to_end.typed import MODULE, Typed, clone_at, path_without, until

from faultline.components.ports import is_free
from faultline.components.processes import Process, look

pytestmark = [pytest.mark.once, pytest.mark.slow]

KILLS = int(os.environ.get("FAULTLINE_KILLS", "25"))
SEED = int(os.environ.get("FAULTLINE_SEED", random.randrange(10**6)))
MINE = "# the learner's own work\n"

# What is typed, and how many processes of the clone may be there when the kill comes.
COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {
    "up and unpack": (("up", "alertmanager"), 3),
    "up and fetch jars": (("up", "zipkin"), 3),
    "up": (("up", "redis"), 2),
    "up and fetch": (("up", "redis"), 2),
    "up postgres": (("up", "postgres"), 7),
    "check": (("check", "redis/05"), 9),
    "watch": (("watch", "redis/05"), 9),
    "verify": (("verify", "redis/05"), 12),
    "run": (("run", "redis/05"), 4),
    "start": (("start", "redis/05"), 1),
    "reset": (("reset", "redis/05"), 1),
    "import": (("progress", "import", "export.json"), 1),
    "clean": (("clean", "redis"), 1),
}
# What is not there any more when it is typed, and so must be made again: below .lab/components.
MADE = {"up and fetch": "*", "up and unpack": "alertmanager-*", "up and fetch jars": "zipkin-*"}
MAKING = 3.0  # seconds in which the kill comes then
NEXT = (("status",), ("down",), ("next",), ("check", "redis/05"), ("start", "redis/05"))


@dataclass(slots=True)
class Place:
    """The clone that is struck, with what must not be lost."""

    clone: Typed
    works: set[str] = field(default_factory=set[str])
    attempts: int = 0
    struck: Counter[str] = field(default_factory=Counter[str])
    ports: set[int] = field(default_factory=set[int])

    def work(self, number: int) -> None:
        """The learner writes a solution, each time another one, over what is there."""
        text = (self.clone.root / MODULE / "solution" / "counter.py").read_text() + f"{MINE}# {number}\n"
        self.clone.solution.parent.mkdir(parents=True, exist_ok=True)
        if self.clone.solution.exists():
            self.works.discard(self.clone.solution.read_text())
        self.clone.solution.write_text(text)
        self.works.add(text)

    def must_be_whole(self) -> None:
        """Progress is sound and has lost no attempt; every work is still there, in the workspace or a backup."""
        with contextlib.closing(sqlite3.connect(self.clone.state / "progress.db")) as progress:
            assert progress.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (attempts,) = progress.execute("SELECT count(*) FROM attempts").fetchone()
        assert attempts >= self.attempts, f"{attempts} attempts after {self.attempts}"
        self.attempts = attempts
        there = {path.read_text() for path in (self.clone.root / "workspace").rglob("counter.py")}
        assert self.works <= there, f"lost: {self.works - there}"
        for text in there - self.works:
            assert text == (self.clone.root / MODULE / "exercise" / "counter.py").read_text(), f"half a file: {text!r}"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The clone to be struck, with a copy of its own of the server, which a fetch may replace."""
    clone = clone_at(tmp_path / "clone")
    fetched = clone.state / "components"
    source = fetched.resolve()
    fetched.unlink(missing_ok=True)
    for name in ("redis", "postgres", "alertmanager", "zipkin"):
        for folder in source.glob(f"{name}-*"):
            shutil.copytree(folder, fetched / folder.name, symlinks=True)
    assert clone.type("start", "redis/05").returncode == 0
    assert clone.type("progress", "export", "export.json").returncode == 0
    yield Place(clone)
    for process in clone.running():
        with contextlib.suppress(psutil.Error):
            process.kill()


@contextlib.contextmanager
def bystanders(place: Place, tmp_path: Path) -> Iterator[Sequence[Process]]:
    """Others who look alike: another clone's lab, and a program of a server's name in the clone's own folder."""
    other = clone_at(tmp_path / "clone-2")
    shutil.copy(shutil.which("sleep") or "", tmp_path / "valkey-server")
    run = place.clone.state / "run" / "redis"
    run.mkdir(parents=True)
    with (
        other.up() as lab,
        subprocess.Popen([tmp_path / "valkey-server", "1000"], cwd=run, start_new_session=True) as stranger,
    ):
        try:
            yield [now for one in (stranger, *other.running()) if (now := look(one.pid))]
        finally:
            stranger.kill()
            lab.send_signal(signal.SIGINT)


def victims(clone: Typed, lab: int, choice: random.Random, spared: set[int]) -> list[psutil.Process]:
    """Mostly one of the clone's processes, now and then all that watch over the others."""
    there = sorted((one for one in clone.running() if one.pid not in spared), key=lambda one: one.pid)
    if not there:
        return []
    if choice.random() < 0.2:
        with contextlib.suppress(psutil.Error):
            return [one for one in there if one.pid == lab or one.name().startswith("python")]
    return [choice.choice(there)]


def await_moment(
    clone: Typed, lab: "subprocess.Popen[str]", choice: random.Random, spared: set[int], most: int, making: float
) -> None:
    """Return when a random number of processes is there, or the command has ended, and a little later."""
    wanted, latest = choice.randint(1, most), time.monotonic() + 10
    until(
        lambda: (
            lab.poll() is not None
            or time.monotonic() > latest
            or len([one for one in clone.running() if one.pid not in spared]) >= wanted
        )
    )
    moment = time.monotonic() + choice.uniform(0.0, making or (0.5 if wanted == 1 else 0.1))
    until(lambda: time.monotonic() >= moment)


def ports_below(state: Path) -> Iterator[int]:
    """The ports of all servers that are on record now."""
    for folder, _, names in os.walk(state):
        if "instance.json" in names:
            with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
                yield int(json.loads(Path(folder, "instance.json").read_text())["port"])


def strike(place: Place, command: str, choice: random.Random, spared: set[int]) -> str:
    """Type the command, kill while it works, and wait until the lab has ended, too; what it said."""
    words, most = COMMANDS[command]
    # A file and no pipe: what outlives the lab holds it open.
    with tempfile.TemporaryFile("w+") as output, place.clone.begin(*words, stdout=output, stderr=output) as lab:
        try:
            await_moment(place.clone, lab, choice, spared, most, MAKING if command in MADE else 0.0)
            place.ports = set(ports_below(place.clone.state))
            half_made = ", half made" if [*(place.clone.state / "components").glob(".*.draft")] else ""
            for victim in victims(place.clone, lab.pid, choice, spared):
                with contextlib.suppress(psutil.Error):
                    name = "the lab" if victim.pid == lab.pid else " ".join(victim.cmdline()[:3])[-60:]
                    victim.kill()
                    place.struck[f"{command}{half_made}: {name.replace(str(place.clone.root), '.')}"] += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                lab.wait(1.0 if words[0] in {"up", "watch"} else 30.0)
            lab.send_signal(choice.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)))
            lab.wait(30)
        finally:
            lab.kill()
        output.seek(0)
        return output.read()


@pytest.mark.timeout(60 + 20 * KILLS)
def test_kill_9_at_any_moment_loses_nothing_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    print(f"FAULTLINE_SEED={SEED} FAULTLINE_KILLS={KILLS}")
    choice, clone = random.Random(SEED), place.clone
    bare = {"PATH": path_without("setpriv", tmp_path / "bin")}  # there the kernel ends nothing with its parent
    with bystanders(place, tmp_path) as others:
        spared = {other.pid for other in others}
        for number in range(KILLS):
            command = choice.choice(list(COMMANDS))
            if command in MADE:
                for made in (clone.state / "components").glob(MADE[command]):
                    shutil.rmtree(made, ignore_errors=True)
            if command != "import":
                place.work(number)
            clone.environment = bare if choice.random() < 0.3 else {}
            round_ = f"round {number} of seed {SEED}, {command}"
            print(round_, flush=True)
            said = strike(place, command, choice, spared)
            assert "Traceback" not in said, f"{round_}: {said}"

            following = choice.choice(NEXT)
            told = clone.type(*following)
            assert "Traceback" not in told.stdout + told.stderr, f"{round_}, then {following}: {told}"
            codes = {0, 1, 2} if following[0] == "check" else {0}
            assert told.returncode in codes, f"{round_}, then {following}: {told}"

            clone.until_nothing_runs(but=sorted(spared))
            place.must_be_whole()
            # Within a while: when it is free it may be anybody's.
            until(lambda: all(map(is_free, place.ports)), lambda: f"{round_}: not free: {place.ports}")  # noqa: B023
            gone = [other for other in others if not other.alive]
            assert not gone, f"{round_}, then {following}: {gone}, {told}"
    print("\n".join(f"{times:4} {what}" for what, times in sorted(place.struck.items())))
    if KILLS >= 100:  # with fewer it may be chance
        assert [what for what in place.struck if what.startswith("up and unpack, half made")], (
            "no kill hit an unpacking"
        )
    must_serve_again(place)


def must_serve_again(place: Place) -> None:
    """A lab as good as new: it fetches, serves, grades, and has no half of anything about it."""
    clone = place.clone
    with clone.up("redis", "postgres", "alertmanager", "zipkin") as lab:
        records = [path.read_text() for path in clone.state.glob("run/*/instance.json")]
        assert len(records) == 4
        lab.send_signal(signal.SIGINT)
        assert lab.wait(20) == 0
    place.work(-1)
    assert clone.type("check", "redis/05").returncode == 0
    clone.until_nothing_runs(but=[])
    assert clone.type("clean").returncode == 0
    assert not [path for path in clone.state.rglob(".*") if path.suffix in {".draft", ".removed"}]
    assert not list((clone.state / "runs").iterdir())
