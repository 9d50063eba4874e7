"""Colour for a terminal that wants it."""

import os
import sys
from typing import TextIO

_CODES = {"red": "31", "green": "32", "yellow": "33", "magenta": "35", "dim": "2", "bold": "1"}


class Paint:
    """Colours text, or leaves it alone: no terminal, `NO_COLOR`, or a dumb terminal."""

    def __init__(self, *, on: bool) -> None:
        self._on = on

    @classmethod
    def for_(cls, stream: TextIO | None = None) -> "Paint":
        """What this stream can show; without one, standard output."""
        shown = sys.stdout if stream is None else stream
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(on=shown.isatty() and not plain)

    def in_(self, colour: str, text: str) -> str:
        """The text in that colour."""
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if self._on else text

    def dim(self, text: str) -> str:
        """Less important text."""
        return self.in_("dim", text)

    def bold(self, text: str) -> str:
        """More important text."""
        return self.in_("bold", text)
