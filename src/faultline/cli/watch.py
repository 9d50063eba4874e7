"""`./lab watch MODULE`: grade on every save; the next save ends a run that is still going."""

import argparse
import threading
from datetime import datetime
from pathlib import Path

from faultline.cli.check import show
from faultline.cli.paint import Paint
from faultline.engine import exercise, roadmap, workspace
from faultline.engine.exercise import Exercise
from faultline.engine.grades import Grade, request
from faultline.engine.module_names import find_module
from faultline.engine.progress_file import ProgressFile
from faultline.engine.verdicts import Verdict
from faultline.engine.warm import WarmRunner


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")


def run(args: argparse.Namespace, root: Path) -> int:
    """Grade now and after every save until Ctrl-C, or until all promises are kept."""
    from watchfiles import watch

    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    folder = workspace.started(root, chosen)
    files = {str(folder / name) for name in chosen.toml.files}
    with WarmRunner(list(chosen.toml.components)) as runner:
        session = _Session(chosen, folder, root, runner)
        session.begin()
        try:
            for changes in watch(folder, debounce=50, step=10, raise_interrupt=True):
                if files & {path for _, path in changes}:
                    session.begin()
        except KeyboardInterrupt:
            session.stop()
            print("\nstopped; your file and your progress are as they were")
    return 0 if session.verdict is Verdict.PASS else 1


class _Session:
    """One run at a time; beginning a new one ends the old."""

    def __init__(self, chosen: Exercise, folder: Path, root: Path, runner: WarmRunner) -> None:
        self._exercise = chosen
        self._folder = folder
        self._root = root
        self._runner = runner
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self.verdict = Verdict.ERROR

    def begin(self) -> None:
        """Grade what is saved now."""
        self.stop()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._grade, args=(self._cancelled,), name="grading")
        self._thread.start()

    def stop(self) -> None:
        """End the run that is going, if one is."""
        if self._thread is not None:
            self._cancelled.set()
            self._thread.join()

    def _grade(self, cancelled: threading.Event) -> None:
        paint = Paint.for_()
        print(f"\x1b[2J\x1b[H{paint.dim(f'{datetime.now().astimezone():%H:%M:%S}')}", end="")
        events = self._runner.grade(request(self._exercise, self._folder, self._root), cancelled)
        grade = show(events, self._exercise)
        if cancelled.is_set():
            return
        self._record(grade)
        print(paint.dim("\nwaiting for the next save; Ctrl-C ends"), flush=True)

    def _record(self, grade: Grade) -> None:
        self.verdict = grade.verdict
        ProgressFile.of_clone(self._root).add([grade.attempt(self._exercise)])
