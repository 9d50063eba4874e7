"""A Python file by places: from nodes of its tree to offsets in its bytes, and to the statement around them."""

import ast
import bisect
import io
import re
import tokenize
from dataclasses import dataclass

_LONGEST = 90  # characters of a statement in a name


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes from `start` to `end` become `text`; `change` says it in words, `at` is the line that it happens in."""

    start: int
    end: int
    text: str
    change: str
    at: str = ""

    def applied(self, source: bytes) -> bytes:
        """The source with this edit, every other byte as it was."""
        return source[: self.start] + self.text.encode() + source[self.end :]


class Text:
    """The source with its offsets; nodes speak of lines and of columns in UTF-8 bytes."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        lines = self.source.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._logical = _logical_lines(source)

    def start(self, node: ast.expr | ast.stmt | ast.excepthandler) -> int:
        """The offset of a node's first byte."""
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt | ast.excepthandler) -> int:
        """The offset behind a node's last byte."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt) -> str:
        """A node's source."""
        return self.source[self.start(node) : self.end(node)].decode()

    def between(self, start: int, end: int) -> str:
        """What stands there."""
        return self.source[start:end].decode()

    def statement(self, offset: int) -> str:
        """The statement around the offset on one line, without comments; of a compound one its head."""
        line = bisect.bisect_right(self._starts, offset)
        index = bisect.bisect_right(self._logical, (line, "\uffff")) - 1
        return shortened(self._logical[index][1])


def shortened(text: str) -> str:
    """On one line, and not too long for a name."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[: _LONGEST - 1]}…"


def _logical_lines(source: str) -> list[tuple[int, str]]:
    """Each statement's first line and its text; indentation, comments and line breaks within it are gone."""
    found: list[tuple[int, str]] = []
    pieces: list[str] = []
    first, behind = 0, (0, 0)
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            found.append((first, "".join(pieces)))
            pieces = []
        elif token.type not in quiet:
            if not pieces:
                first = token.start[0]
            elif token.start != behind:
                pieces.append(" ")
            # From Python 3.12 on an f-string is several tokens, and `{{` is told as `{`; only names are made of this.
            pieces.append(re.sub(r"\s+", " ", token.string))
            behind = token.end
    return found
