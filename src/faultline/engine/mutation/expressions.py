"""The small changes within a Python expression: operators, conditions, constants, arguments, parts of a template."""

import ast
import re
from collections.abc import Iterator

from faultline.engine.mutation.embedded import embedded_edits, language
from faultline.engine.mutation.text import Edit, Text

_COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {  # the operator, its opposite, its neighbour
    ast.Lt: ("<", ">=", "<="),
    ast.LtE: ("<=", ">", "<"),
    ast.Gt: (">", "<=", ">="),
    ast.GtE: (">=", "<", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
}
_OTHER_NAME = {"max": "min", "min": "max", "any": "all", "all": "any"}
_ANY_ORDER = {"max", "min", "uniform"}  # swapped arguments are the same call


class Expressions:
    """Makes the edits of expressions in one text."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._negated = set[int]()  # conditions: the opposite of their comparison would be the same change again

    def within(self, node: ast.expr) -> Iterator[Edit]:
        """All changes within an expression, its parts included."""
        if isinstance(node, ast.JoinedStr):
            yield from self._template(node)
            return
        yield from self._here(node)
        for part in ast.iter_child_nodes(node):
            match part:
                case ast.expr():
                    yield from self.within(part)
                case ast.comprehension():
                    yield from self._filtered(part)
                case ast.keyword():
                    yield from self.within(part.value)
                case _:
                    pass

    def negated(self, condition: ast.expr) -> Edit:
        """The condition the other way round."""
        self._negated.add(id(condition))
        return self.edit(condition, f"not ({self._text.of(condition)})", "negated")

    def operator(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Edit]:
        """The operator between two expressions is another."""
        start = self._text.end(left)
        between = self._text.between(start, self._text.start(right))
        if found := re.search(r"\s+".join(re.escape(word) for word in old.split()), between):
            at = start + len(between[: found.start()].encode())
            yield Edit(at, at + len(found[0].encode()), new, f"{old} → {new}", self._text.statement(at))

    def edit(self, node: ast.expr, new: str, change: str) -> Edit:
        """The whole expression is replaced."""
        return Edit(self._text.start(node), self._text.end(node), new, change, self._at(node))

    def _here(self, node: ast.expr) -> Iterator[Edit]:
        match node:
            case ast.IfExp():
                yield self.negated(node.test)
            case ast.Compare():
                yield from self._compared(node)
            case ast.BoolOp():
                yield from self._joined(node)
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                yield from self.operator(node.left, node.right, *ARITHMETIC[type(node.op)])
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                sign, operand = "not" if isinstance(node.op, ast.Not) else "-", self._text.of(node.operand)
                yield self.edit(node, f"({operand})", f'without {sign} before "{operand}"')
            case ast.Constant():
                yield from self._constant(node)
            case ast.Call():
                yield from self._call(node)
            case _:
                pass

    def _compared(self, node: ast.Compare) -> Iterator[Edit]:
        """A comparison that is one off, or the other way round."""
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            old, *others = _COMPARISONS[type(operator)]
            if id(node) in self._negated and len(node.ops) == 1:
                others = others[1:]
            for new in reversed(others):
                yield from self.operator(left, right, old, new)

    def _joined(self, node: ast.BoolOp) -> Iterator[Edit]:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from self.operator(left, right, old, new)
        for gone in node.values:
            left_over = f" {old} ".join(f"({self._text.of(one)})" for one in node.values if one is not gone)
            yield self.edit(node, f"({left_over})", f'without "{self._text.of(gone)}"')

    def _filtered(self, node: ast.comprehension) -> Iterator[Edit]:
        for test in node.ifs:
            yield self.edit(test, "True", f'without the filter "{self._text.of(test)}"')
            yield self.negated(test)
        for inner in (node.iter, *node.ifs):
            yield from self.within(inner)

    def _constant(self, node: ast.Constant) -> Iterator[Edit]:
        match node.value:
            case bool(value):
                yield self.edit(node, str(not value), f"{value} → {not value}")
            case int(value) | float(value):
                for other in (value + 1, value - 1):
                    new = repr(round(other, 9))
                    yield self.edit(node, f"({new})" if other < 0 else new, f"{self._text.of(node)} → {new}")
            case str(value) if tongue := language(value):
                yield from embedded_edits(self._text, node, tongue)
            case str(value):
                new = '""' if value else '"x"'
                yield self.edit(node, new, f"{self._text.of(node)} → {new}")
            case _:
                pass

    def _call(self, node: ast.Call) -> Iterator[Edit]:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in _OTHER_NAME:
            yield self.edit(node.func, _OTHER_NAME[name], f"{name} → {_OTHER_NAME[name]}")
        for left, right in zip(node.args, node.args[1:], strict=False):
            if name not in _ANY_ORDER and not isinstance(left, ast.Starred) and not isinstance(right, ast.Starred):
                gap = self._text.between(self._text.end(left), self._text.start(right))
                swapped = f"{self._text.of(right)}{gap}{self._text.of(left)}"
                change = f"arguments swapped: {self._text.of(left)}, {self._text.of(right)}"
                yield Edit(self._text.start(left), self._text.end(right), swapped, change, self._at(node))
        for keyword in node.keywords:
            if keyword.arg is not None:
                yield from self._without_keyword(node, keyword)

    def _without_keyword(self, node: ast.Call, keyword: ast.keyword) -> Iterator[Edit]:
        """The call without `name=value` and the comma before it, or behind it."""
        opening = self._text.end(node.func)
        before = self._text.between(opening, self._text.start(keyword.value))
        behind = self._text.between(self._text.end(keyword.value), self._text.end(node))
        if not (cut := re.search(rf"(,\s*)?\b{keyword.arg}\s*=\s*$", before)):
            return  # the value is in brackets; not worth the trouble
        comma = re.match(r"\s*,\s*", behind) if cut[1] is None else None
        start = opening + len(before[: cut.start()].encode())
        end = self._text.end(keyword.value) + (len(comma[0].encode()) if comma else 0)
        yield Edit(start, end, "", f"without {keyword.arg}={self._text.of(keyword.value)}", self._at(node))

    def _template(self, node: ast.JoinedStr) -> Iterator[Edit]:
        """An f-string without one of its parts.

        Python 3.11 does not say where the parts are, so simple ones are taken apart here, and others left alone.
        """
        source = self._text.of(node)
        simple = re.fullmatch(r"""[fF](["'])((?:(?!\1)[^\\{}]|\{[^{}"']*\})*)\1""", source)
        for part in re.finditer(r"\{[^{}]*\}|[^{}]+", simple[2]) if simple else ():
            assert simple is not None
            start = self._text.start(node) + len(source[: simple.start(2) + part.start()].encode())
            yield Edit(start, start + len(part[0].encode()), "", f'without "{part[0]}"', self._at(node))

    def _at(self, node: ast.expr) -> str:
        return self._text.statement(self._text.start(node))
