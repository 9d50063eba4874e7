"""A clone of a test's own in which `./lab` is typed for real, and what the machine shows of it."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import psutil

from faultline.components import Clone

REAL = Clone.here().root
BASE = Path(sys.base_prefix)
MODULE = Path("sandbox") / "redis-learning" / "05-distributed-locks"
WORKSPACE = Path("workspace") / "redis-learning" / "05-distributed-locks"
FILES = {
    "module.toml": """
        title = "A counter"
        summary = "It counts."
        minutes = 5
        difficulty = 1
        concepts = ["counting"]
        requires = []
        components = ["redis"]
        files = ["counter.py"]
        example = { redis = 1 }
    """,
    # Each of a server, a process, and a process that detaches itself.
    "checks.py": '''
        from faultline.testbed import Testbed


        async def test_counts(testbed: Testbed) -> None:
            """Adding one three times gives three."""
            await testbed.redis()
            counter = await (await testbed.process("till-1")).new("Counter")
            for _ in range(3):
                await counter.add(1)
            assert await counter.total() == 3, "not three"


        async def test_begins_at_zero(testbed: Testbed) -> None:
            """A new counter is at zero."""
            await testbed.redis()
            counter = await (await testbed.process("till-1")).new("Counter")
            await counter.leave()
            assert await counter.total() == 0, "not zero"
    ''',
    "exercise/counter.py": """
        class Counter:
            def add(self, number):
                raise NotImplementedError
    """,
    "solution/counter.py": """
        import subprocess


        class Counter:
            def __init__(self):
                self._total = 0

            def add(self, number):
                self._total += number

            def total(self):
                return self._total

            def leave(self):
                subprocess.Popen(["sleep", "600"], start_new_session=True)
    """,
    "mutants.toml": """
        [[mutants]]
        name = "adds one too many"
        why = "Off by one."
        caught_by = ["counts"]
        looks_like = "not three"
        diagnosis = "what happens when one is added to what is added."
        replace = "+= number"
        with = "+= number + 1"
    """,
    "hints.md": "# Hints\n\n## Nudge\n\nCount.\n\n## Push\n\nAdd up.\n\n## Nearly\n\n`self._total += number`\n",
    "README.md": "# A counter\n\n`counts` `begins_at_zero`\n",
    "example.py": """
        import os, socket, subprocess, sys, time
        from urllib.parse import urlsplit

        address = urlsplit(os.environ["REDIS_URL"])
        subprocess.Popen(["sleep", "600"])
        try:
            with socket.create_connection((address.hostname, address.port)) as server:
                for _ in range(5):
                    server.sendall(b"PING\\r\\n")
                    if server.recv(100) != b"+PONG\\r\\n":
                        sys.exit("the server has gone")
                    time.sleep(0.1)
        except OSError:
            sys.exit("the server has gone")
        print("five times", flush=True)
    """,
}


@dataclass(slots=True)
class Typed:
    """A clone, and how to type in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()

    @property
    def state(self) -> Path:
        return self.root / ".lab"

    @property
    def solution(self) -> Path:
        """The learner's file."""
        return self.root / WORKSPACE / "counter.py"

    def begin(self, *words: str, **options: object) -> "subprocess.Popen[str]":
        """Type it, and do not wait; it has a session of its own, as in a terminal of its own."""
        given: dict[str, object] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
            "cwd": self.root,
            "start_new_session": True,
            **options,
        }
        return subprocess.Popen([*self.prefix, "./lab", *words], text=True, env=self._environment(), **given)  # type: ignore[call-overload]

    def type(self, *words: str, within: float = 120, **options: object) -> "subprocess.CompletedProcess[str]":
        """Type it, and wait for its end."""
        with self.begin(*words, **options) as process:
            try:
                said, complained = process.communicate(timeout=within)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, said or "", complained or "")

    @contextlib.contextmanager
    def up(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """A running lab, killed -9 in the end if it still runs."""
        with self.begin("up", *(words or ("redis",))) as lab:
            try:
                until_said(lab, "Ctrl-C stops the lab")
                yield lab
            finally:
                lab.kill()

    def running(self) -> list[psutil.Process]:
        """All that runs for this clone: by its folder, its command or its environment."""
        mine = re.compile(re.escape(str(self.root)) + r"(/|$)")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile, or somebody else's
                words = [process.cwd(), *process.cmdline(), *process.environ().values()]
                if process.status() != psutil.STATUS_ZOMBIE and any(mine.search(word) for word in words):
                    found.append(process)
        return found

    def until_nothing_runs(self, *, but: Sequence[int] = (), within: float = 20) -> None:
        until(
            lambda: not [process for process in self.running() if process.pid not in but],
            lambda: f"still running: {[(process.pid, process.cmdline()) for process in self.running()]}",
            within=within,
        )

    def _environment(self) -> dict[str, str]:
        plain = {name: text for name, text in os.environ.items() if not name.startswith(("LAB_", "PYTEST_"))}
        return {**plain, "NO_COLOR": "1", **self.environment}


def until(condition: Callable[[], object], story: Callable[[], object] = str, *, within: float = 20) -> None:
    """Wait for the condition; its absence tells the story."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, story()
        time.sleep(0.01)


def until_said(process: "subprocess.Popen[str]", text: str) -> str:
    """What it printed up to a line with the text."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was not printed; printed was:\n{said}\n{process.stderr and process.stderr.read()}")


def clone_at(root: Path) -> Typed:
    """A clone with one small module, the servers that were fetched already, and an environment that is complete."""
    for name, text in FILES.items():
        path = root / MODULE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    shutil.copy(REAL / "sandbox" / "roadmap.toml", root / "sandbox")
    shutil.copy(REAL / "lab", root)
    for name in ("src", "requirements"):
        (root / name).symlink_to(REAL / name)
    (root / ".venv").mkdir()
    for path in (REAL / ".venv").iterdir():
        if path.name != "pycache":
            (root / ".venv" / path.name).symlink_to(path)
    _link_bytecode(root)
    (root / ".lab").mkdir()
    if Clone.here().components.is_dir():
        (root / ".lab" / "components").symlink_to(Clone.here().components)
    return Typed(root)


def _link_bytecode(root: Path) -> None:
    """The bytecode of what all clones have in common: compiling it is most of a first command's work."""
    ours, theirs = REAL / ".venv" / "pycache", root / ".venv" / "pycache"
    for real, copy in ((REAL / "src", root / "src"), (REAL / ".venv", root / ".venv"), (BASE, BASE)):
        link = theirs / copy.relative_to("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ours / real.relative_to("/"))


def path_without(program: str, folder: Path) -> str:
    """A PATH with links to all programs but one."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(":")):
        for path in Path(place).iterdir() if Path(place).is_dir() else ():
            if path.name != program:
                (folder / path.name).unlink(missing_ok=True)
                (folder / path.name).symlink_to(path)
    return str(folder)
