"""`./lab start MODULE`: copy the starter to the workspace and say what to do with it."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from faultline.engine import exercise, roadmap, workspace
from faultline.engine.module_names import find_module
from faultline.engine.progress import Started
from faultline.engine.progress_file import ProgressFile


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("module", help="such as redis/05")


def run(args: argparse.Namespace, root: Path) -> int:
    """Copy what is not there yet; never overwrites."""
    chosen = exercise.load(find_module(roadmap.load(root), args.module))
    copied = workspace.start(root, chosen)
    ProgressFile.of_clone(root).add([Started(module=chosen.module.id, at=datetime.now(UTC))])
    name = chosen.module.id
    files = ", ".join(str((workspace.folder_of(root, chosen) / file).relative_to(root)) for file in chosen.toml.files)
    print(f"{name}  {chosen.toml.title}  ({chosen.toml.minutes} minutes)")
    print(f"  {chosen.toml.summary}\n")
    print(f"  lesson    {chosen.module.path.relative_to(root)}/README.md   (here: ./lab read {name})")
    print(f"  see it    ./lab run {name}")
    print(f"  edit      {files}{'' if copied else '   (kept as it was; ./lab reset starts over)'}")
    print(f"  grade     ./lab watch {name}   on every save, or ./lab check {name} once")
    print(f"  stuck     ./lab hint {name}")
    return 0
