"""`./lab watch MODULE`: grade on every save; the next save ends a run that is still going."""

import argparse
import contextlib
import sys
import threading
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from faultline.cli.check import show
from faultline.cli.paint import Paint
from faultline.engine import exercise, roadmap, workspace
from faultline.engine.errors import EngineError
from faultline.engine.exercise import Exercise
from faultline.engine.grades import request
from faultline.engine.module_names import find_module
from faultline.engine.progress_file import ProgressFile
from faultline.engine.verdicts import EXIT_CODES, Verdict
from faultline.engine.warm import WarmRunner


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")


def run(args: argparse.Namespace, root: Path) -> int:
    """Grade now and after every save until Ctrl-C; returns the exit code of the last verdict."""
    from watchfiles import watch

    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    folder = workspace.started(root, chosen)
    files = {str(folder / name) for name in chosen.toml.files}
    with WarmRunner(list(chosen.toml.components)) as runner, _Session(chosen, folder, root, runner) as session:
        session.begin()
        with contextlib.suppress(KeyboardInterrupt):
            for changes in watch(folder, debounce=50, step=10, stop_event=session.broken, raise_interrupt=True):
                if files & {path for _, path in changes}:
                    session.begin()
    if session.error is not None:
        raise session.error
    print("\nstopped; your file and your progress are as they were")
    return EXIT_CODES[session.verdict]


class _Session:
    """One run at a time; beginning a new one ends the old, leaving the block the last.

    `broken` is set when a run could not be graded at all; `error` then says why.
    """

    def __init__(self, chosen: Exercise, folder: Path, root: Path, runner: WarmRunner) -> None:
        self.verdict = Verdict.UNKNOWN
        self.broken = threading.Event()
        self.error: EngineError | OSError | None = None
        self._exercise = chosen
        self._folder = folder
        self._root = root
        self._runner = runner
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def begin(self) -> None:
        """Grade what is saved now."""
        self._stop()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._grade, args=(self._cancelled,), name="grading")
        self._thread.start()

    def _stop(self) -> None:
        if self._thread is not None:
            self._cancelled.set()
            self._thread.join()

    def _grade(self, cancelled: threading.Event) -> None:
        paint = Paint.for_()
        clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
        print(f"{clear}{paint.dim(f'{datetime.now().astimezone():%H:%M:%S}')}", end="")
        try:
            events = self._runner.grade(request(self._exercise, self._folder, self._root), cancelled)
            grade = show(events, self._exercise)
            if cancelled.is_set():
                return
            self.verdict = grade.verdict
            ProgressFile.of_clone(self._root).add([grade.attempt(self._exercise)])
        except (EngineError, OSError) as error:  # here is a thread: who waits for the next save must hear of it
            self.error = error
            self.broken.set()
            return
        print(paint.dim("\nwaiting for the next save; Ctrl-C ends"), flush=True)
