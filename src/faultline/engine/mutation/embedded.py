"""Small changes of a script inside a Python string: Lua for Redis, SQL.

There is no parser for these here, so the changes are few and go by words: a line that opens or closes a block stays, a
comparison, an index, an option of a command goes.
"""

import ast
import re
from collections.abc import Iterator

from faultline.engine.mutation.text import Edit, Text, shortened

_LUA = re.compile(r"\bredis\.p?call\(")
_SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b")
_BLOCK = re.compile(r"\s*(if|else|elseif|end|for|while|repeat|until|function|local function|do|--)\b|\s*--|\s*$")
_OPTION = re.compile(
    r""",\s*(['"])(?P<option>NX|XX|GT|LT|CH|INCR|GET|KEEPTTL|WITHSCORES|(?P<valued>EX|PX|EXAT|PXAT|LIMIT|COUNT))\1"""
    r"(?(valued),\s*[^,()]+(\([^()]*\))?)"
)
_COMPARISON = {"==": "~=", "~=": "==", "<=": "<", ">=": ">", "<": "<=", ">": ">="}
_CLAUSE = re.compile(r"\s+(FOR UPDATE|SKIP LOCKED|NOWAIT|ON CONFLICT\b.*?DO NOTHING|DISTINCT|LIMIT \d+|DESC)\b")
_CONDITION = re.compile(r"\bAND\b\s+[^()]+?(?=\s+(?:AND|OR|ORDER|GROUP|LIMIT|FOR|RETURNING)\b|\s*[;)]|\s*$)")


def language(value: str) -> str:
    """`lua`, `sql`, or "" for a string that is no script."""
    if _LUA.search(value):
        return "lua"
    return "sql" if _SQL.search(value) else ""


def embedded_edits(text: Text, node: ast.Constant, tongue: str) -> Iterator[Edit]:
    """The changes of the script in that string; none if it is written with escapes, or as several strings."""
    source = text.of(node)
    literal = re.fullmatch(r"""[rR]?('''|\"\"\"|'|")(.*)\1""", source, re.DOTALL)
    if not literal or literal[2] != node.value:
        return
    begin = text.start(node) + len(source[: literal.start(2)].encode())
    script = literal[2]
    for start, end, new, change in _lua(script) if tongue == "lua" else _sql(script):
        line = script[script.rfind("\n", 0, start) + 1 :].split("\n", 1)[0]
        at = "" if change.startswith("without line") else shortened(line)
        yield Edit(begin + len(script[:start].encode()), begin + len(script[:end].encode()), new, change, at)


_Change = tuple[int, int, str, str]


def _lua(script: str) -> Iterator[_Change]:
    place = 0
    several = len(script.strip().splitlines()) > 1
    for line in script.splitlines(keepends=True):
        if several and not _BLOCK.match(line):
            yield place, place + len(line), "", f'without line "{shortened(line)}"'
        if not line.lstrip().startswith("--"):
            for start, end, new, change in _lua_line(line, script):
                yield place + start, place + end, new, change
        place += len(line)


def _lua_line(line: str, script: str) -> Iterator[_Change]:
    yield from _lua_conditions(line)
    for found in re.finditer(r"\b(KEYS|ARGV)\[(\d)\]", line):
        for index in sorted(set(re.findall(rf"\b{found[1]}\[(\d)\]", script)) - {found[2]}):
            yield found.start(2), found.end(2), index, f"{found[0]} → {found[1]}[{index}]"
    for found in _OPTION.finditer(line):
        yield found.start(), found.end(), "", f"without {found['option']}"
    for found in re.finditer(r"(?<![\w.\[])\d+(?![\w.\]])", line):
        for number in (int(found[0]) + 1, int(found[0]) - 1):
            yield found.start(), found.end(), str(number), f"{found[0]} → {number}"


def _lua_conditions(line: str) -> Iterator[_Change]:
    condition = re.match(r"\s*(?:if|elseif|while)\s+(.*?)\s+(?:then|do)\b", line)
    single = condition is not None and not re.search(r"\b(and|or)\b", condition[1])
    if condition:
        yield condition.start(1), condition.end(1), f"not ({condition[1]})", "negated"
    for found in re.finditer(r"==|~=|<=|>=|<|>", line):
        if not (single and found[0] in {"==", "~="}):  # that would be the same as negated
            yield found.start(), found.end(), _COMPARISON[found[0]], f"{found[0]} → {_COMPARISON[found[0]]}"
    for found in re.finditer(r"\b(and|or)\b", line):
        other = "or" if found[0] == "and" else "and"
        yield found.start(), found.end(), other, f"{found[0]} → {other}"


def _sql(script: str) -> Iterator[_Change]:
    for found in (*_CLAUSE.finditer(script), *_CONDITION.finditer(script)):
        yield found.start(), found.end(), "", f'without "{shortened(found[0])}"'
    for found in re.finditer(r"\bWHERE\s+", script):
        yield found.end(), found.end(), "NOT ", "negated WHERE"
    for found in re.finditer(r"<=|>=|<>|(?<![<>!:])=|<|>", script):
        new = {"<=": "<", ">=": ">", "<": "<=", ">": ">=", "=": "<>", "<>": "="}[found[0]]
        yield found.start(), found.end(), new, f"{found[0]} → {new}"
