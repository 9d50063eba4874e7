"""Draws docs/pictures/verdict.svg: a real failing verdict, of the mutant "get, then delete", as the terminal shows it.

Run it from the root with `.venv/bin/python docs/pictures/draw.py`.
"""

import io
import os
import pty
import re
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from faultline.engine import exercise, roadmap
from faultline.engine.module_names import find_module

ROOT = Path(__file__).parents[2]
COLUMNS = 104


def main() -> None:
    """Grade the mutant in a terminal and draw what it showed."""
    chosen = exercise.load(find_module(roadmap.load(ROOT), "redis/05"))
    mutant = next(mutant for mutant in chosen.mutants if mutant.name == "get, then delete")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lock.py").write_text(chosen.mutated(mutant))
        only = [f"--only={check}" for check in ("grants_and_releases", "late_holder_is_visible", *mutant.caught_by)]
        shown = in_terminal(["./lab", "check", "redis/05", "--solution", folder, "--seed", "7", *only])
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(shown.strip("\r\n")))
    svg = console.export_svg(title="./lab check redis/05", theme=MONOKAI)
    # No font from another host: the reader's own monospace will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    (Path(__file__).parent / "verdict.svg").write_text(svg)


def in_terminal(command: list[str]) -> str:
    """What the command writes to a terminal of `COLUMNS` columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "60", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    process.wait()
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
