"""The automatic mutants of a file, and what they are called.

A name is made of the function, the change and the statement, not of line numbers: it survives edits elsewhere. Two
changes that read the same are told apart by their number, in the order of the file.
"""

import ast
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from faultline.engine.mutation.statements import edits
from faultline.engine.mutation.text import Edit, Text


@dataclass(frozen=True, slots=True)
class Variant:
    """One automatic mutant: its name, the whole changed file, and the function that it is in."""

    name: str
    source: str
    scope: str


@functools.cache  # a proof asks several times, and compiling hundreds of variants takes seconds
def variants(source: str) -> tuple[tuple[Variant, ...], frozenset[str]]:
    """The distinct programs, and the names of changes that make none: they mean the same to Python as it stands.

    Raises `SyntaxError` if the source itself is none.
    """
    tree = ast.parse(source)
    text = Text(source)
    seen = {_meaning(source)}
    found: list[Variant] = []
    same: set[str] = set()
    for scope, name, edit in _named(text, tree):
        changed = edit.applied(text.source).decode()
        try:
            meaning = _meaning(changed)
        except (SyntaxError, ValueError):
            same.add(name)
            continue
        if meaning in seen:
            same.add(name)
        else:
            seen.add(meaning)
            found.append(Variant(name, changed, scope))
    return tuple(found), frozenset(same)


def _named(text: Text, tree: ast.Module) -> Iterator[tuple[str, str, Edit]]:
    times = Counter[str]()
    for scope, edit in edits(text, tree):
        name = f"{scope}: {edit.change}" + (f' in "{edit.at}"' if edit.at else "")
        times[name] += 1
        yield scope, name if times[name] == 1 else f"{name} #{times[name]}", edit


def _meaning(source: str) -> object:
    """What Python makes of it, but for the places in the file; equal for programs that run the same."""
    return _code(compile(source, "mutant", "exec", dont_inherit=True))


def _code(code: CodeType) -> object:
    constants = tuple(
        _code(one) if isinstance(one, CodeType) else (type(one).__name__, repr(one)) for one in code.co_consts
    )
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    table = getattr(code, "co_exceptiontable", b"")
    return code.co_name, code.co_argcount, code.co_flags, code.co_code, table, names, constants
