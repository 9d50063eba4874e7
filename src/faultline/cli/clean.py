"""`./lab clean`: what was fetched and built, with sizes; removes what is named."""

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from rich.filesize import decimal

from faultline.cli.errors import UsageError
from faultline.components.clone import Clone
from faultline.components.records import owner
from faultline.components.room import memory_of
from faultline.engine import run_folders


def configure(parser: argparse.ArgumentParser) -> None:
    """Names, or none to see what there is."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to remove; without it, what there is")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace, root: Path) -> int:
    """List, or remove what is named; never the workspace, never progress."""
    clone = Clone(root, os.environ)
    for doomed in [*clone.state.glob(_DOOMED), *clone.components.glob(_DOOMED), _doomed(memory_of(root))]:
        shutil.rmtree(doomed, ignore_errors=True)  # an earlier `clean` was killed half way
    things = _things(clone)
    if not args.names:
        _show({name: (what, _size(paths)) for name, (what, paths) in things.items()}, as_json=args.json)
        return 0
    if unknown := [name for name in args.names if name not in things]:
        raise UsageError(f"nothing called {', '.join(unknown)}; there is: {', '.join(things) or 'nothing'}")
    for folder in [clone.run, clone.shop, clone.chaos, clone.integrate, *run_folders.present(root)]:
        if pid := owner(folder):
            raise UsageError(f"process {pid} uses {folder}; stop it first (the lab: ./lab down). Nothing was removed")
    for name in args.names:
        _, paths = things[name]
        size = _size(paths)
        for path in paths:
            _remove(path)
        print(f"removed {name}: {decimal(size)}")
    return 0


_DOOMED = ".*.removed"


def _things(clone: Clone) -> dict[str, tuple[str, list[Path]]]:
    """What can be removed: a name, what it is in words, and its folders."""
    found = dict[str, tuple[str, list[Path]]]()
    for path in sorted(path for path in clone.components.glob("*-*") if path.is_dir()):
        name = path.name.lstrip(".").rpartition("-")[0]
        found.setdefault(name, ("fetched; fetched again when needed", []))[1].append(path)
    for name, what, folder in (
        ("cache", "templates; made again when needed", clone.cache),
        ("run", "the lab's servers: their data and logs", clone.run),
        ("shop", "the shop's servers: their data and logs", clone.shop),
        ("chaos", "the shop that is killed at every edge, and what was found", clone.chaos),
        ("integrate", "the shop with your solution in it", clone.integrate),
        ("runs", "what grading runs left", clone.runs),
        ("memory", "the same of proofs and tests, in memory", memory_of(clone.root)),
    ):
        if folder.is_dir() and any(folder.iterdir()):
            found[name] = (what, [folder])
    return found


def _show(things: Mapping[str, tuple[str, int]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: {"what": what, "bytes": size} for name, (what, size) in things.items()}, indent=1))
        return
    if not things:
        print("Nothing was fetched or built yet; there is nothing to remove.")
        return
    width = max(map(len, things))
    for name, (what, size) in things.items():
        print(f"{name:<{width}}  {decimal(size):>10}  {what}")
    print("\nRemove with: ./lab clean NAME... Your workspace and progress are never touched.")


def _size(paths: list[Path]) -> int:
    files = (Path(place, name) for path in paths for place, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in files)


def _remove(folder: Path) -> None:
    """First out of its name, then away: interrupted, nothing half removed bears a name that is used."""
    doomed = _doomed(folder)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _doomed(folder: Path) -> Path:
    return folder.with_name(f".{folder.name.lstrip('.')}.removed")
