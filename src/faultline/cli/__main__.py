"""`./lab VERB`: finds the verb, runs it, turns errors into a sentence and an exit code."""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Protocol, cast

from faultline.cli.errors import CliError

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
    verb = cast(Verb, importlib.import_module(f"faultline.cli.{name}"))
    parser = argparse.ArgumentParser(prog=f"./lab {name}", description=VERBS[name])
    verb.configure(parser)
    root = Path(os.environ.get("LAB_ROOT", Path.cwd()))
    try:
        return verb.run(parser.parse_args(rest), root)
    except KeyboardInterrupt:
        print(f"\nlab {name}: stopped by Ctrl-C, nothing is left running", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `lab roadmap | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"lab {name}: {error}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int | None:
    """What an error of ours ends the verb with; None for a bug, which keeps its traceback."""
    from faultline.components.errors import ComponentError  # late: every verb would wait for it
    from faultline.engine.errors import EngineError, RunnerDied

    if isinstance(error, RunnerDied):
        return 3
    return 2 if isinstance(error, CliError | ComponentError | EngineError) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
