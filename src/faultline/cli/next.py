"""`./lab next`: the next module of each track and the one command to type."""

import argparse
from pathlib import Path

from faultline.engine.next_modules import NextModule, next_modules
from faultline.engine.progress_file import ProgressFile
from faultline.engine.roadmap import Module, load, minutes


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--json", action="store_true", help="print it for a program")


def run(args: argparse.Namespace, root: Path) -> int:
    """Say what is next in both tracks."""
    steps = next_modules(load(root), ProgressFile.of_clone(root).read())
    if args.json:
        import json  # only --json needs it

        print(json.dumps([_facts(step) for step in steps], ensure_ascii=False, indent=2))
    else:
        print("\n\n".join(describe(step) for step in steps))
    return 0


def describe(step: NextModule) -> str:
    """One track's next step in two or three lines, for the terminal."""
    track = f"{step.track.capitalize():<10}"
    indent = " " * len(track)
    if step.module is None:
        return f"{track}{_nothing_left(step)}"
    taken = minutes(step.module)
    time = f" ({taken} minutes)" if taken else ""
    lines = [f"{track}{step.module.id}  {step.module.title}{time}", f"{indent}{step.command}"]
    if step.skipped:
        lines.append(f"{indent}Skipped, not built yet: {_ranges(step.skipped)}.")
    return "\n".join(lines)


def _nothing_left(step: NextModule) -> str:
    if not step.skipped:
        return "every module is passed."
    return f"nothing to do: what is left is not built yet, from {step.skipped[0].id} {step.skipped[0].title}."


def _ranges(modules: tuple[Module, ...]) -> str:
    """The modules' ids, each topic's neighbours in one range."""
    runs: list[list[Module]] = []
    for module in modules:
        topic, number = module.id.split("/")
        if runs and number.isdecimal() and runs[-1][-1].id == f"{topic}/{int(number) - 1:02}":
            runs[-1].append(module)
        else:
            runs.append([module])
    return ", ".join(run[0].id if len(run) == 1 else f"{run[0].id} to {run[-1].id}" for run in runs)


def _facts(step: NextModule) -> dict[str, object]:
    return {
        "track": step.track,
        "module": step.module and step.module.id,
        "title": step.module and step.module.title,
        "minutes": step.module and minutes(step.module),
        "begun": step.begun,
        "command": step.command,
        "not_built": [module.id for module in step.skipped],
    }
