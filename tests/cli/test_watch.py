"""`lab watch`: every save is graded, a newer one ends the run of the older, Ctrl-C ends all."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from faultline.cli.__main__ import main
from faultline.engine.progress_file import ProgressFile

WAITING = "waiting for the next save; Ctrl-C ends"


class Watching:
    """A running `lab watch` and the lines it prints."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._lines = queue.Queue[str]()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def until(self, text: str) -> str:
        """What is printed until a line with this text, which comes within 20 s."""
        said, deadline = "", time.monotonic() + 20
        while text not in said:
            try:
                said += self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{text!r} was not printed; printed was:\n{said}") from None
        return said

    def end(self) -> None:
        """Ctrl-C, if it still runs; returns when it has said its last word, which comes within 20 s."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self._reader.join(20)
        if self._reader.is_alive():
            self.process.kill()
            raise AssertionError("Ctrl-C did not end `lab watch`")

    def below(self) -> list[psutil.Process]:
        """All processes of its runs."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def solution(tiny_clone: Path) -> Path:
    """The learner's file, with the starter in it."""
    assert main(["start", "redis/05"]) == 0
    return tiny_clone / "workspace" / "redis-learning" / "05-distributed-locks" / "counter.py"


@contextmanager
def watching(root: Path) -> Iterator[Watching]:
    with subprocess.Popen(
        [sys.executable, "-m", "faultline.cli", "watch", "redis/05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LAB_ROOT": str(root)},
    ) as process:
        lab = Watching(process)
        try:
            yield lab
        finally:
            lab.end()


def test_every_save_is_graded_and_the_last_verdict_is_the_exit_code(
    tiny_clone: Path, tiny_module: Path, solution: Path
) -> None:
    good, bad = (tiny_module / "solution" / "counter.py").read_text(), solution.read_text()
    with watching(tiny_clone) as lab:
        said = lab.until(WAITING)
        assert "0 of 4 promises kept" in said
        assert "\x1b" not in said
        for _ in range(3):
            solution.write_text(good)
            assert "All 4 promises kept" in lab.until(WAITING)
            solution.with_suffix(".new").write_text(bad)
            solution.with_suffix(".new").replace(solution)  # as many editors save
            assert "0 of 4 promises kept" in lab.until(WAITING)
        solution.write_text(good)
        lab.until(WAITING)
    assert lab.process.returncode == 0
    assert ProgressFile.of_clone(tiny_clone).read().of("redis/05").tries == 8


def test_a_save_while_grading_ends_the_run_and_leaves_nothing(
    tiny_clone: Path, tiny_module: Path, solution: Path
) -> None:
    good = (tiny_module / "solution" / "counter.py").read_text()
    hangs = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nwhile True: pass\n"
    with watching(tiny_clone) as lab:
        lab.until(WAITING)
        idle = {process.pid for process in lab.below()}
        for _ in range(3):
            solution.write_text(hangs)
            deadline = time.monotonic() + 20
            while not any("sleep" in process.name() for process in lab.below()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            solution.write_text(good)
            assert "All 4 promises kept" in lab.until(WAITING)
            while left := [process for process in lab.below() if process.pid not in idle]:
                assert time.monotonic() < deadline, left
                time.sleep(0.01)
    assert lab.process.returncode == 0
    assert ProgressFile.of_clone(tiny_clone).read().of("redis/05").tries == 4  # what was ended is not recorded


def test_ctrl_c_in_the_middle_of_a_run_leaves_nothing(tiny_clone: Path, solution: Path) -> None:
    solution.write_text("while True: pass\n")
    with watching(tiny_clone) as lab:
        deadline = time.monotonic() + 20
        while len(below := lab.below()) < 5:  # runner, warden, grader, nursery, the learner's
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lab.process.send_signal(signal.SIGINT)
        lab.until("stopped; your file and your progress are as they were")
        lab.process.wait(10)
    assert lab.process.returncode == 3
    assert not [process for process in below if process.is_running()]


def test_a_runner_that_is_gone_is_said_and_ends_the_watch(tiny_clone: Path, solution: Path) -> None:
    with watching(tiny_clone) as lab:
        lab.until(WAITING)
        lab.below()[0].kill()
        solution.write_text("")
        said = lab.until("lab watch: ")  # before or after it took the request: both are known
        assert "the runner cannot be reached" in said or "the run ended without a word" in said
        assert lab.process.wait(10) == 3
