"""Ctrl-C once and twice, SIGTERM, a terminal that closes: each verb ends in order, and nothing of it stays."""

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil
import pytest
from tests.end_to_end.typed import MODULE, REAL, Typed, path_without, until

pytestmark = pytest.mark.once

SLOW = """

async def test_waits(testbed: Testbed) -> None:
    import asyncio
    await (await (await testbed.process("till-1")).new("Counter")).leave()
    await asyncio.sleep(600)
"""


@dataclass(slots=True)
class Terminal:
    """A command in a terminal, and the keyboard of it."""

    process: "subprocess.Popen[str]"
    keyboard: int
    said: str = ""

    def read(self) -> str:
        """What is on the screen by now."""
        while select.select([self.keyboard], [], [], 0)[0]:
            try:
                data = os.read(self.keyboard, 65_536)
            except OSError:  # EIO: nobody has the other end open any more
                break
            if not data:
                break
            self.said += data.decode(errors="replace")
        return self.said

    def until(self, text: str) -> None:
        until(lambda: text in self.read(), lambda: f"{text!r} was not printed; printed was:\n{self.said}", within=40)

    def ctrl_c(self) -> None:
        os.write(self.keyboard, b"\x03")

    def ended(self) -> int:
        """Its exit code; read as it goes, because a full screen would hold it up."""
        until(lambda: (self.read(), self.process.poll())[1] is not None, lambda: self.said, within=30)
        self.read()
        return self.process.returncode


@pytest.fixture(autouse=True)
def a_closed_terminal_is_heard() -> Iterator[None]:
    """Under nohup everything that is started would have SIGHUP ignored; what is handled here is not, over there."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def in_terminal(clone: Typed, *words: str) -> Iterator[Terminal]:
    keyboard, screen = pty.openpty()
    with clone.begin(
        *words, stdin=screen, stdout=screen, stderr=screen, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    ) as process:
        os.close(screen)
        terminal = Terminal(process, keyboard)
        try:
            yield terminal
        finally:
            process.kill()
            with contextlib.suppress(OSError):  # closed by the test
                os.close(keyboard)


def works_on(clone: Typed, *programs: str) -> Callable[[], bool]:
    """Whether processes with these words in their command run for the clone."""

    def look() -> bool:
        commands = list[str]()
        for process in clone.running():
            with contextlib.suppress(psutil.Error):
                commands.append(" ".join(process.cmdline()))
        return all(any(program in command for command in commands) for program in programs)

    return look


def prepare(clone: Typed, verb: str) -> None:
    checks = clone.root / MODULE / "checks.py"
    checks.write_text(checks.read_text() + SLOW)
    clone.type("start", "redis/05")
    shutil.copy(clone.root / MODULE / "solution" / "counter.py", clone.solution)
    example = clone.root / MODULE / "example.py"
    example.write_text(example.read_text().replace("range(5)", "range(6000)"))
    if verb == "test":
        shutil.copy(REAL / "pyproject.toml", clone.root)
        (clone.root / "tests").mkdir()
        (clone.root / "tests" / "test_slow.py").write_text(
            "import subprocess\n\n\ndef test_slow():\n    subprocess.run(['sleep', '600'])\n"
        )


# What is typed, the processes that show that it is at work, and how it ends.
VERBS: dict[str, tuple[Sequence[str], Sequence[str], int]] = {
    "up": (("up", "redis"), ("valkey-server",), 0),
    "check": (("check", "redis/05"), ("sleep",), 2),
    "watch": (("watch", "redis/05"), ("sleep",), 3),
    "verify": (("verify", "redis/05"), ("sleep",), 2),
    "run": (("run", "redis/05"), ("valkey-server", "sleep"), 2),
    "test": (("test", "--only", "tests"), ("sleep",), 2),
}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_ends_a_verb_and_all_that_it_started(clone: Typed, verb: str, times: int) -> None:
    words, programs, code = VERBS[verb]
    prepare(clone, verb)
    with in_terminal(clone, *words) as terminal:
        until(works_on(clone, *programs), terminal.read, within=40)
        for _ in range(times):
            terminal.ctrl_c()
        # The second one may cut an ordered end short: then the verb was stopped, as its last word says.
        assert terminal.ended() in {code, 2 if times == 2 else code}, terminal.said
    assert "Traceback" not in terminal.said.replace("test_slow.py", "") or verb == "test", terminal.said
    clone.until_nothing_runs(within=2 if verb != "test" else 5)
    assert clone.type("status").stdout == "The lab is not running. Start it with: ./lab up\n"


@pytest.mark.parametrize("ending", ["SIGTERM", "closed terminal"])
@pytest.mark.parametrize("verb", ["up", "check", "watch", "verify", "run"])
def test_sigterm_and_a_closed_terminal_end_a_verb_as_ctrl_c_does(clone: Typed, verb: str, ending: str) -> None:
    words, programs, code = VERBS[verb]
    prepare(clone, verb)
    with in_terminal(clone, *words) as terminal:
        until(works_on(clone, *programs), terminal.read, within=40)
        if ending == "SIGTERM":
            terminal.process.terminate()
            assert terminal.ended() == code, terminal.said
            assert "Traceback" not in terminal.said
        else:
            os.close(terminal.keyboard)
            terminal.process.wait(30)
            assert terminal.process.returncode in {code, 2}
    clone.until_nothing_runs(within=2)
    assert clone.type("status").stderr == ""


@pytest.mark.slow
def test_sigterm_ends_a_stage_whose_lines_are_read(clone: Typed) -> None:
    """`lab test` without a terminal, as CI runs it."""
    words, programs, code = VERBS["test"]
    prepare(clone, "test")
    with clone.begin(*words) as lab:
        until(works_on(clone, *programs), within=40)
        lab.terminate()
        said, complained = lab.communicate(timeout=20)
    assert lab.returncode == code, (said, complained)
    assert "stopped by SIGTERM" in complained
    clone.until_nothing_runs(within=5)


@contextlib.contextmanager
def silent_registry(clone: Typed) -> Iterator[None]:
    """Nothing was fetched yet, and who answers for the registry takes connections and keeps silent."""
    (clone.state / "components").unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        clone.environment |= {
            "LAB_PROVIDER": "wheel", "UV_CACHE_DIR": str(clone.root / "cache"), "UV_DEFAULT_INDEX": address,
            "UV_INDEX_URL": address, "UV_FIND_LINKS": "",
        }  # fmt: skip
        yield


def test_who_fetches_for_a_lab_that_was_killed_is_ended_by_the_next_command(clone: Typed) -> None:
    clone.environment = {"PATH": path_without("setpriv", clone.root / "bin")}
    with silent_registry(clone), clone.begin("up", "redis") as lab:
        until(works_on(clone, "uv pip install"), within=40)
        assert not clone.type("next").stderr
        assert works_on(clone, "uv pip install")(), "the next command ended what belongs to a lab that lives"
        lab.kill()
        lab.wait()
        assert works_on(clone, "uv pip install")(), "without setpriv it must outlive the lab, or this proves nothing"
        assert clone.type("next").returncode == 0
        assert not clone.running()
    assert not [path.name for path in (clone.state / "components").iterdir() if not path.name.endswith(".lock")]


def test_what_serves_an_example_of_a_lab_that_was_killed_is_ended_by_the_next_command(clone: Typed) -> None:
    clone.environment = {"PATH": path_without("setpriv", clone.root / "bin")}
    prepare(clone, "run")
    with clone.begin("run", "redis/05", stdout=subprocess.DEVNULL) as lab:
        until(works_on(clone, "valkey-server", "sleep", "example.py"), within=40)
        lab.kill()
        lab.wait()
        assert works_on(clone, "valkey-server", "sleep", "example.py")(), "else this proves nothing"
        assert clone.type("next").returncode == 0
        assert not clone.running()
    assert not list((clone.state / "runs").iterdir())


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_ctrl_c_ends_a_fetch_that_hangs(clone: Typed, times: int) -> None:
    components = clone.state / "components"
    with silent_registry(clone):
        with in_terminal(clone, "up", "redis") as terminal:
            until(works_on(clone, "uv pip install"), terminal.read, within=40)
            for _ in range(times):
                terminal.ctrl_c()
            # The second may come when the first has been said already: then it ends the command itself.
            assert terminal.ended() in {0, 2 * (times - 1)}, terminal.said
            assert "The lab has stopped" in terminal.said
            assert "Traceback" not in terminal.said
        clone.until_nothing_runs(within=2)
        assert not [path.name for path in components.iterdir() if not path.name.endswith(".lock")]


def test_ctrl_c_at_any_moment_of_the_beginning_ends_without_a_word_about_our_code(clone: Typed) -> None:
    """Python itself, before the first line of ours, may still say KeyboardInterrupt."""
    for number in range(10):
        with in_terminal(clone, "check", "redis/05", "--solution", str(MODULE / "solution")) as terminal:
            began = time.monotonic()
            until(works_on(clone, "faultline.cli"), terminal.read)
            moment = began + number * 0.05
            until(lambda moment=moment: time.monotonic() > moment)
            terminal.ctrl_c()
            terminal.ended()
        frames = [line for line in terminal.said.splitlines() if line.lstrip().startswith("File ")]
        ours = [line for line in frames if "src/faultline" in line and "__main__" not in line]
        assert not ours, terminal.said
        clone.until_nothing_runs(within=5)
