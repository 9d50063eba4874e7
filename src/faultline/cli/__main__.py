"""`./lab VERB`: finds the verb, runs it, turns errors into a sentence and an exit code."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, cast

from faultline.cli.endings import Ended, hear_endings
from faultline.cli.errors import CliError
from faultline.cli.leftovers import end_leftovers
from faultline.cli.obstacles import explain

VERBS: dict[str, str] = {
    "up": "start the lab and show what is next; Ctrl-C stops it",
    "roadmap": "the tracker and the learning path, by what you have passed",
    "next": "the next module and the one command to type",
    "plan": "the roadmap's weeks from a start date, moved on by what you have passed; also for a calendar",
    "start": "copy a module's starter to your workspace",
    "read": "a module's lesson, in the terminal",
    "run": "a module's example, on real servers",
    "check": "grade your solution under faults",
    "watch": "grade it on every save",
    "hint": "the next hint, from nudge to near-answer",
    "solution": "the reference; asks first while you have not passed",
    "reset": "start a module over; keeps what you had beside it",
    "progress": "export or import what you have passed",
    "status": "what runs now",
    "logs": "the log of a component",
    "down": "stop the lab",
    "shop": "up, status, seed, buy, down: the shop that everything here is about",
    "chaos": "check, sweep: whether the shop keeps its word, also when it is killed at every edge",
    "integrate": "your solution in the shop, in the place of ours, and the proof that the shop stands it",
    "doctor": "what this machine can and cannot run, and why",
    "clean": "what was fetched and built, with sizes; removes what you name",
    "verify": "for authors: the proof of a module's grader",
    "bench": "for authors: our patterns beside popular libraries",
    "test": "for authors: whether all is well, in ten minutes",
}
STOPPED = "\nlab {name}: stopped by {by}, nothing is left running"


class Verb(Protocol):
    """One file in this folder."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's arguments."""

    def run(self, args: argparse.Namespace, root: Path) -> int:
        """Do it, for the clone at `root`; return the exit code (0 passed, 1 failed, 2 environment, 3 unknown)."""
        ...


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {does}" for name, does in VERBS.items()]
    return "\n".join(["usage: ./lab VERB [options]      ./lab VERB --help tells more", "", *lines])


def main(arguments: list[str]) -> int:
    """Run one verb and return its exit code."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0
    name, *rest = arguments
    if name not in VERBS:
        print(f"lab: there is no verb {name!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    hear_endings()
    try:
        code = _run(name, rest)
        sys.stdout.flush()
    except KeyboardInterrupt as ending:
        _hush()
        return _end(2, STOPPED.format(name=name, by=ending if isinstance(ending, Ended) else "Ctrl-C"))
    except BrokenPipeError:  # `lab roadmap | head`
        return _end(0)
    except Exception as error:
        code, story = _judged(error)
        if story is None:
            raise
        return _end(code, f"lab {name}: {story}")
    return code


def _run(name: str, arguments: list[str]) -> int:
    with _ended_at_once(name):
        verb = cast(Verb, importlib.import_module(f"faultline.cli.{name}"))
    parser = argparse.ArgumentParser(prog=f"./lab {name}", description=VERBS[name])
    verb.configure(parser)
    chosen = parser.parse_args(arguments)
    root = Path(os.environ.get("LAB_ROOT", Path.cwd()))
    end_leftovers(root)
    return verb.run(chosen, root)


@contextmanager
def _ended_at_once(name: str) -> Iterator[None]:
    """Ctrl-C ends the process during the block, in which nothing is begun yet.

    As an exception it could come up while a library written in C is loading, which would tell it as its own error.
    """

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        os._exit(_end(2, STOPPED.format(name=name, by="Ctrl-C")))

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody wants it otherwise
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _hush() -> None:
    """Let asyncio say nothing of tasks whose clean-up a second Ctrl-C has cut short: our last word tells of it."""
    if "asyncio" in sys.modules:
        import logging  # late: every verb would wait for it

        logging.getLogger("asyncio").disabled = True


def _end(code: int, story: str = "") -> int:
    """Say the last word where somebody may still read it; what cannot be printed any more is dropped."""
    for stream, last in ((sys.stdout, ""), (sys.stderr, story and f"{story}\n")):
        try:
            stream.write(last)
            stream.flush()
        except OSError:  # its reader has gone, or its disk is full; nor may Python try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _judged(error: Exception) -> tuple[int, str | None]:
    """The exit code and the sentence that an error ends the verb with; no sentence for a bug, which is traced."""
    from faultline.components.errors import ComponentError  # late: every verb would wait for it
    from faultline.engine.errors import EngineError, RunnerDied

    if isinstance(error, RunnerDied):
        return 3, str(error)
    if isinstance(error, OSError):
        return 2, explain(error)
    return 2, str(error) if isinstance(error, CliError | ComponentError | EngineError) else None


if __name__ == "__main__":
    code = main(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said: a second Ctrl-C must not give it another end
    sys.exit(code)
