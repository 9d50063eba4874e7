"""What is wrong with the machine or the clone is one sentence and exit code 2; the next command works again.

The faults are real: file systems that are full or read-only in a namespace of the test's own, a network that is
not there, permissions without the power to pass by them.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.end_to_end.typed import MODULE, REAL, WORKSPACE, Typed, clone_at, path_without, until

from faultline.components.room import memory_of

pytestmark = pytest.mark.once


def inside(*mounts: str) -> Sequence[str]:
    """Words before a command that runs it where these mounts are made first."""
    return ("unshare", "-rm", "sh", "-c", f'{" && ".join(mounts)} && exec "$@"', "sh")


def full(folder: Path, size: str, leave: int) -> Sequence[str]:
    """The folder on a disk of this size, with so many bytes left."""
    folder.mkdir(parents=True, exist_ok=True)
    fill = f"{{ cat /dev/zero >'{folder}/fill' 2>/dev/null; truncate -s -{leave} '{folder}/fill'; }}"
    return inside(f"mount -t tmpfs -o size={size} none '{folder}'", fill if leave >= 0 else "true")


def read_only(folder: Path) -> Sequence[str]:
    return inside(f"mount --bind '{folder}' '{folder}'", f"mount -o remount,bind,ro '{folder}'")


POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--") if os.geteuid() == 0 else ()
"""As the same user, and file permissions hold also for root."""

needs_namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
    reason="this machine forbids user namespaces, so no real full disk can be had: NOT RUN",
)


WITH_UV = {"PATH": f"{REAL / '.venv' / 'bin'}:{os.environ['PATH']}", "LAB_PYTHON": str(Path(sys.executable).resolve())}
"""An environment in which .venv is made quickly: by the uv that is there, from what it has in its cache."""


FILLS = """
import itertools
try:
    for number in itertools.count():
        with open(f"{folder}/fill-{{number}}", "xb", 0) as file:
            assert file.write(bytes(2**20)) == 2**20
except (OSError, AssertionError):
    pass
"""


def refused(typed: "subprocess.CompletedProcess[str]", sentence: str) -> None:
    """The command ended with code 2 and this sentence, and without a traceback."""
    assert re.search(sentence, typed.stderr), typed
    assert "Traceback" not in typed.stderr + typed.stdout, typed
    assert typed.returncode == 2, typed


def works(clone: Typed) -> None:
    """The clone as it is afterwards can be used."""
    clone.prefix = ()
    started = clone.type("start", "redis/05")
    assert (started.returncode, started.stderr) == (0, ""), started
    with clone.up() as lab:
        lab.send_signal(signal.SIGINT)
        assert lab.wait(20) == 0


@needs_namespaces
def test_a_full_disk_refuses_a_server_a_start_and_a_record_of_progress(clone: Typed) -> None:
    clone.prefix = full(clone.state / "run", "1m", leave=0)
    refused(clone.type("up", "redis"), r"lab up: .*/\.lab/run: No space left on device; make room \(\./lab clean")

    clone.prefix = full(clone.root / "workspace", "1m", leave=0)
    refused(clone.type("start", "redis/05"), r"counter\.py was not written: No space left on device; make room")

    clone.prefix = full(clone.state, "1m", leave=4096)
    story = r"progress\.db: progress was not recorded, because the disk is full; free some space and try again"
    refused(clone.type("start", "redis/05"), story)
    assert clone.solution.read_text() == (clone.root / MODULE / "exercise" / "counter.py").read_text()
    works(clone)


@needs_namespaces
def test_a_full_disk_refuses_to_grade_and_never_blames_the_learner(clone: Typed) -> None:
    clone.type("start", "redis/05")
    shutil.copy(clone.root / MODULE / "solution" / "counter.py", clone.solution)
    clone.prefix = full(clone.state / "runs", "2m", leave=1_000_000)
    memory = memory_of(clone.root)
    # In the way of a proof, which would not need the disk otherwise; whoever has `clone.prefix` is root there.
    taken = {memory, memory.with_name(memory.name.replace(f"-{os.getuid()}-", "-0-"))}
    for name in taken:
        name.touch()
    for verb in ("check", "run", "watch", "verify"):
        refused(clone.type(verb, "redis/05"), rf"lab {verb}: .*/\.lab/runs: No space left on device; make room")
    for name in taken:
        name.unlink()

    # Full only once the run goes on: the learner's own code fills it.
    text = clone.solution.read_text()
    clone.solution.write_text(f"{FILLS.format(folder=clone.state)}\n{text}")
    there = (clone.state / "components").resolve()
    clone.prefix = inside(
        f"mount -t tmpfs -o size=20m none '{clone.state}'", f"ln -s '{there}' '{clone.state}/components'"
    )
    graded = clone.type("check", "redis/05")  # what the run removes at its end may make room for the record again
    assert graded.returncode != 1, f"the learner was blamed: {graded}"
    assert "Traceback" not in graded.stdout + graded.stderr, graded
    clone.solution.write_text(text)
    works(clone)
    assert clone.type("check", "redis/05").returncode == 0


@needs_namespaces
def test_a_full_disk_and_no_network_refuse_to_fetch_and_leave_no_half(clone: Typed) -> None:
    components = clone.state / "components"
    components.unlink(missing_ok=True)
    clone.environment = {"LAB_PROVIDER": "wheel"}
    clone.prefix = full(components, "2m", leave=1_000_000)
    refused(
        clone.type("up", "redis"),
        r"lab up: no redis on this machine:\n(.*\n)*  wheel: could not fetch (.*\n)*.*os error 28",
    )

    for prefix, environment in (
        (("unshare", "-rn"), {}),
        (
            (),
            {
                "HTTPS_PROXY": "http://127.0.0.1:9",
                "HTTP_PROXY": "http://127.0.0.1:9",
                "ALL_PROXY": "http://127.0.0.1:9",
            },
        ),
    ):
        clone.prefix = prefix
        clone.environment = {
            "LAB_PROVIDER": "wheel", "UV_CACHE_DIR": str(clone.root / "cache"), "UV_HTTP_RETRIES": "0", **environment
        }  # fmt: skip
        shutil.rmtree(clone.root / "cache", ignore_errors=True)
        said = clone.type("up", "redis")
        refused(
            said,
            r"lab up: no redis on this machine:\n(.*\n)*  wheel: could not fetch (.*\n)*  Debian: apt install redis",
        )
        assert not [path.name for path in components.iterdir() if not path.name.endswith(".lock")]
    clone.environment = {}
    works(clone)


@needs_namespaces
def test_a_read_only_clone_can_be_read_and_every_write_is_refused(clone: Typed) -> None:
    clone.type("start", "redis/05")
    clone.type("progress", "export", "export.json")
    mine = clone.solution.read_text()
    clone.prefix = read_only(clone.root)
    for words, story in {
        ("up", "redis"): r"\.lab/run: Read-only file system; make it writable",
        ("check", "redis/05"): r"\.lab/runs: Read-only file system; make it writable",
        ("run", "redis/05"): r"\.lab/runs: Read-only file system; make it writable",
        ("reset", "redis/05"): r"cannot be moved aside: Read-only file system; make the folder above it writable",
        ("hint", "redis/05"): r"progress was not recorded, because the file or its folder is read-only; make both writ",
        (
            "progress",
            "export",
            "again.json",
        ): r"again\.json was not written: Read-only file system; make room or make it",
        (
            "progress",
            "import",
            "export.json",
        ): r"progress was not recorded, because the file or its folder is read-only",
    }.items():
        refused(clone.type(*words), story)
    for verb in ("status", "roadmap", "next", "progress", "down"):
        assert clone.type(verb).returncode == 0, verb
    assert clone.solution.read_text() == mine
    works(clone)


def test_a_folder_without_permission_names_its_path_and_who_to_ask(clone: Typed) -> None:
    clone.prefix = POWERLESS
    (clone.state / "run").mkdir(mode=0o555)
    refused(clone.type("up", "redis"), r"\.lab/run: Permission denied; see who owns it \(ls -ld\)")
    (clone.state / "run").rmdir()
    clone.state.chmod(0o555)
    refused(
        clone.type("start", "redis/05"),
        r"progress was not recorded, because it cannot be opened or made; check who owns",
    )
    refused(clone.type("check", "redis/05"), r"\.lab/runs: Permission denied; see who owns it")
    clone.state.chmod(0o755)
    works(clone)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else: NOT RUN")
def test_what_root_or_another_user_made_is_said_so(clone: Typed) -> None:
    clone.type("start", "redis/05")
    with clone.up():
        pass
    for path in [clone.state, *clone.state.rglob("*"), *(clone.root / "workspace").rglob("*")]:
        if not path.is_symlink():
            os.chown(path, 12_345, 12_345)
    clone.prefix = POWERLESS
    refused(
        clone.type("up", "redis"),
        r"Permission denied; see who owns it \(ls -ld\); an earlier command as root\? sudo chown",
    )
    refused(clone.type("check", "redis/05"), r"Permission denied; see who owns it")
    refused(clone.type("reset", "redis/05"), r"cannot be moved aside: Permission denied")
    for verb in ("status", "next", "progress"):
        assert clone.type(verb).returncode == 0
    clone.prefix = ()
    assert clone.type("status").returncode == 0


def test_a_state_folder_or_workspace_that_is_a_file_is_said_so(clone: Typed) -> None:
    shutil.rmtree(clone.state)
    clone.state.write_text("mine")
    for words in (("up", "redis"), ("check", "redis/05", "--solution", str(MODULE / "solution")), ("run", "redis/05")):
        refused(clone.type(*words), r"\.lab/runs?: Not a directory; a file lies where a folder belongs; move it away")
    refused(clone.type("start", "redis/05"), r"\.lab/progress\.db: File exists, so progress was not recorded")
    assert clone.state.read_text() == "mine"
    clone.state.unlink()

    shutil.rmtree(clone.root / "workspace")
    (clone.root / "workspace").write_text("mine")
    refused(clone.type("start", "redis/05"), r"counter\.py was not written: Not a directory")
    (clone.root / "workspace").unlink()
    works(clone)


def test_a_state_folder_or_workspace_may_be_a_link_and_a_link_to_nowhere_is_said_so(
    clone: Typed, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in (".lab", "workspace"):
        shutil.rmtree(clone.root / name, ignore_errors=True)
        (clone.root / name).symlink_to(elsewhere / name)
    refused(
        clone.type("up", "redis"), r"\.lab: File exists; something lies where a folder belongs, or a link that leads"
    )
    refused(clone.type("start", "redis/05"), r"counter\.py was not written: File exists")
    for name in (".lab", "workspace"):
        (elsewhere / name).mkdir(parents=True)
    (elsewhere / ".lab" / "components").symlink_to(REAL / ".lab" / "components")
    works(clone)
    with clone.up() as lab:
        status = clone.type("status")
        assert f"The lab runs as process {lab.pid}" in status.stdout
        lab.kill()
        lab.wait()
        clone.type("status")
        clone.until_nothing_runs()
    assert (elsewhere / WORKSPACE / "counter.py").exists()


def test_damaged_progress_is_said_and_left_as_it_is(clone: Typed) -> None:
    clone.type("start", "redis/05")
    progress = clone.state / "progress.db"
    progress.write_bytes(b"SQLite format 3\0" + bytes(4096))
    for words in (("progress",), ("next",), ("up", "redis"), ("start", "redis/05"), ("check", "redis/05")):
        refused(
            clone.type(*words), r"progress\.db: .* the file is damaged .*; move it away, then `\./lab progress import`"
        )
    assert progress.read_bytes() == b"SQLite format 3\0" + bytes(4096)
    progress.rename(clone.root / "damaged.db")
    works(clone)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"name": 1}', b"\xff\xfe"])
def test_what_a_damaged_record_names_is_found_all_the_same(clone: Typed, damage: bytes) -> None:
    clone.environment["PATH"] = path_without("setpriv", clone.root / "bin")
    with clone.up() as lab:
        lab.kill()
        lab.wait()
    assert clone.running(), "without setpriv the server must outlive the lab, or this proves nothing"
    (clone.state / "run" / "redis" / "instance.json").write_bytes(damage)
    assert "ended what it left running: redis" in clone.type("next").stderr
    assert not clone.running()
    works(clone)


def test_a_clock_that_was_set_back_breaks_nothing(clone: Typed) -> None:
    """All that is written down lies in the future: attempts, starts, records, files."""
    clone.type("start", "redis/05")
    shutil.copy(clone.root / MODULE / "solution" / "counter.py", clone.solution)
    assert clone.type("check", "redis/05").returncode == 0
    with sqlite3.connect(clone.state / "progress.db") as progress:
        for table in ("attempts", "starts"):
            progress.execute(f"UPDATE {table} SET at = '2099' || substr(at, 5)")
    progress.close()
    for path in (clone.root / "workspace").rglob("*"):
        os.utime(path, (4_070_000_000, 4_070_000_000))
    assert clone.type("check", "redis/05").returncode == 0
    for words in (
        ("progress",),
        ("next",),
        ("roadmap",),
        ("plan", "--start", "2027-01-04"),
        ("start", "redis/05"),
        ("reset", "redis/05"),
    ):
        said = clone.type(*words)
        assert (said.returncode, said.stderr) == (0, ""), said
    assert "2 attempts, 1 start" in clone.type("progress").stdout
    with clone.up() as lab:
        record = clone.state / "run" / "redis" / "instance.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "since": "2099-01-01T00:00:00+00:00"}))
        assert re.search(r"redis +running .* 0 s ", clone.type("status").stdout)
        assert clone.type("down").returncode == 0
        assert lab.wait(20) == 0


def test_closed_streams_no_home_and_a_reader_that_left_are_no_trouble(clone: Typed) -> None:
    clone.environment = {}
    for words in ("./lab roadmap | head -1", "./lab up redis | head -1", "./lab check redis/05 --solution $S | head -1",
                  "./lab next >&-", "./lab doctor 2>&-", "./lab next <&- >&- 2>&-", "env -u HOME ./lab next",
                  "env -u HOME ./lab check redis/05 --solution $S", "./lab progress <&-"):  # fmt: skip
        shell = f"S={MODULE}/solution; set -o pipefail; {words}"
        said = subprocess.run(
            ["bash", "-c", shell], cwd=clone.root, capture_output=True, text=True, check=False, timeout=50,
            env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
        assert (said.returncode, said.stderr) == (0, ""), (words, said)
    asked = subprocess.run(
        ["sh", "-c", "./lab solution redis/05 <&-"], cwd=clone.root, capture_output=True, text=True, check=False
    )
    refused(asked, "redis/05 is not passed yet; to see the reference all the same: --yes")
    with Path("/dev/full").open("w") as nowhere:
        refused(clone.type("roadmap", stdout=nowhere), "lab roadmap: No space left on device")


@pytest.mark.parametrize("name", ["ein Klön mit Lücken", 'a\'b "c" $d;e', "x" * 200 + "/" + "y" * 150])
def test_a_clone_may_lie_anywhere(tmp_path: Path, name: str) -> None:
    clone = clone_at(tmp_path / name)
    works(clone)
    shutil.copy(clone.root / MODULE / "solution" / "counter.py", clone.solution)
    for words in (("check", "redis/05"), ("run", "redis/05"), ("status",), ("clean",)):
        said = clone.type(*words)
        assert (said.returncode, said.stderr) == (0, ""), said
    clone.until_nothing_runs()


def test_a_path_that_is_longer_than_sqlite_takes_is_said_so(tmp_path: Path) -> None:
    clone = clone_at(tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 200))
    refused(clone.type("start", "redis/05"), r"the path is longer than the 500 bytes that SQLite takes; move the clone")


@pytest.mark.slow
@pytest.mark.timeout(480)  # an environment takes seconds of processor time, several times
def test_a_half_made_environment_is_made_whole_or_says_what_it_lacks(clone: Typed) -> None:
    venv = clone.root / ".venv"
    shutil.rmtree(venv)
    venv.write_text("mine")
    refused(clone.type("status"), r"\.venv cannot be written to: make it a folder of yours \(is it a file\?")
    venv.unlink()
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/nowhere/python3")
    clone.environment = {
        "PIP_RETRIES": "0", "PIP_CACHE_DIR": str(clone.root / "pip"), "UV_CACHE_DIR": str(clone.root / "uv"),
        "UV_HTTP_RETRIES": "0", "PIP_FIND_LINKS": "", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }  # fmt: skip
    for _ in range(2):
        refused(
            clone.type("status"), r"Could not (install|make) .*; the reason is above .*then run the same command again"
        )
    clone.environment = WITH_UV
    assert clone.type("status", within=120).stdout == "The lab is not running. Start it with: ./lab up\n"


def has_packages(root: Path, count: int, making: "subprocess.Popen[str]") -> Callable[[], bool]:
    places = ".venv/lib/*/site-packages/*"
    return lambda: making.poll() is not None or len(list(root.glob(places))) >= count


@pytest.mark.slow
@pytest.mark.timeout(480)  # an environment takes seconds of processor time, several times
def test_kill_9_while_the_environment_is_made_is_mended_by_the_next_command(clone: Typed) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    choice = random.Random(seed)
    shutil.rmtree(clone.root / ".venv")
    clone.environment = WITH_UV
    for _ in range(3):
        with clone.begin("status") as making:
            until(has_packages(clone.root, choice.randrange(20), making))
            os.killpg(making.pid, signal.SIGKILL)
        clone.until_nothing_runs()
    assert clone.type("status", within=120).stdout == "The lab is not running. Start it with: ./lab up\n"
    works(clone)

    # What a kill can leave at its worst: a package that looks installed and is not whole.
    (package,) = clone.root.glob(".venv/lib/*/site-packages/msgspec")
    shutil.rmtree(package)
    (clone.root / ".venv" / "lab.txt").unlink()
    (clone.root / ".venv" / ".unfinished").touch()
    assert clone.type("check", "redis/05", "--solution", str(MODULE / "solution")).returncode == 0


def test_a_port_that_is_taken_is_not_used(clone: Typed) -> None:
    with clone.up() as lab:
        said = clone.type("status").stdout
        port = int(re.findall(r"redis://127.0.0.1:(\d+)", said)[0])
        lab.send_signal(signal.SIGINT)
        lab.wait(20)
    with socket.create_server(("127.0.0.1", port)):
        works(clone)


def test_an_address_where_nobody_listens_is_said_so(clone: Typed) -> None:
    clone.environment = {"LAB_REDIS_URL": "redis://127.0.0.1:9"}
    refused(
        clone.type("up", "redis"), r"redis at redis://127.0.0.1:9 does not serve .*; start it or unset its variable"
    )
