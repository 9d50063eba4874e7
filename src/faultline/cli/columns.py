"""Text in columns of a terminal, where a sign such as ⭐ takes two cells."""

import shutil
import textwrap
import unicodedata
from collections.abc import Sequence


def terminal_width() -> int:
    """The columns to draw for: the terminal's, between 80 and 120."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, 80), 120)


def cells(text: str) -> int:
    """How many columns the text takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def pad(text: str, width: int) -> str:
    """The text with spaces behind it, up to `width` columns."""
    return text + " " * (width - cells(text))


def table(rows: Sequence[Sequence[str]], *, width: int, wrapped: int) -> list[str]:
    """Lines of a table, head first; the column `wrapped` gets what the others leave of `width`."""
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1
    others = sum(widths) - widths[wrapped] + gap * (len(widths) - 1)
    widths[wrapped] = min(widths[wrapped], width - others)
    head, *body = (_row_lines(row, widths, wrapped, " " * gap) for row in rows)
    rule = (" " * gap).join("─" * column for column in widths)
    return [*head, rule, *(line for lines in body for line in lines)]


def _row_lines(row: Sequence[str], widths: Sequence[int], wrapped: int, gap: str) -> list[str]:
    first, *more = textwrap.wrap(row[wrapped], widths[wrapped]) or [""]
    filled = [first if column == wrapped else text for column, text in enumerate(row)]
    continued = [["" if column != wrapped else text for column in range(len(row))] for text in more]
    return [gap.join(map(pad, line, widths)).rstrip() for line in [filled, *continued]]
