"""`./lab VERB`: finds the verb, runs it, turns errors into a sentence and an exit code."""

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, cast

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
    "doctor": "what this machine can and cannot run, and why",
    "clean": "what was fetched and built, with sizes; removes what you name",
    "verify": "for authors: the proof of a module's grader",
    "bench": "for authors: our patterns beside popular libraries",
    "test": "for authors: all that CI runs",
}


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
    _hear_endings()
    try:
        code = _run(name, rest)
        sys.stdout.flush()
    except _Ended as ending:
        return _end(2, f"\nlab {name}: stopped by {ending}, nothing is left running")
    except KeyboardInterrupt:
        return _end(2, f"\nlab {name}: stopped by Ctrl-C, nothing is left running")
    except BrokenPipeError:  # `lab roadmap | head`
        return _end(0)
    except Exception as error:
        code, story = _judged(error)
        if story is None:
            raise
        return _end(code, f"lab {name}: {story}")
    return code


def _run(name: str, arguments: list[str]) -> int:
    verb = cast(Verb, importlib.import_module(f"faultline.cli.{name}"))
    parser = argparse.ArgumentParser(prog=f"./lab {name}", description=VERBS[name])
    verb.configure(parser)
    chosen = parser.parse_args(arguments)
    root = Path(os.environ.get("LAB_ROOT", Path.cwd()))
    end_leftovers(root)
    return verb.run(chosen, root)


class _Ended(KeyboardInterrupt):
    """Somebody asks this command to end otherwise than by Ctrl-C, and it ends the same way."""


def _hear_endings() -> None:
    """SIGTERM and the end of the terminal come as an exception, so that what was started is ended."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # otherwise somebody wants it ignored: nohup
            signal.signal(number, _asked)


def _asked(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended(signal.Signals(number).name)


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
    sys.exit(main(sys.argv[1:]))
