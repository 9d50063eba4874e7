"""The small changes of a Python file, statement by statement: what is missing, or does something else.

They are edits by position, so the rest of the file stays byte for byte. Left alone is what no check may judge:
documentation, the messages of exceptions, types, imports, logging. A change that could only crash at once (a name that
is None, a call that is not awaited) is not made either: any check would refuse it, and it would prove nothing.
"""

import ast
from collections.abc import Iterator, Sequence

from faultline.engine.mutation.expressions import ARITHMETIC, Expressions
from faultline.engine.mutation.text import Edit, Text

_LOGS = {"log", "logger", "logging", "_log", "_logger"}
_REMOVED = ast.Expr | ast.AugAssign | ast.Raise | ast.Delete | ast.Assert
_Guard = ast.With | ast.AsyncWith
_Scoped = tuple[str, Edit]


def edits(text: Text, tree: ast.Module) -> Iterator[_Scoped]:
    """Every change with the function (or the constant) that it is in, in the order of the file."""
    yield from sorted(_Walk(text).inside(tree, ""), key=lambda one: (one[1].start, one[1].end))


class _Walk:
    """Goes through the tree and knows which function it is in."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._expressions = Expressions(text)

    def inside(self, node: ast.AST, scope: str) -> Iterator[_Scoped]:
        for part in ast.iter_child_nodes(node):
            match part:
                case ast.stmt():
                    yield from self._statement(part, scope)
                case ast.expr() if not _is_for_people(node, part):
                    yield from _all(scope, self._expressions.within(part))
                case ast.expr():
                    pass
                case ast.arguments():
                    for default in [*part.defaults, *(one for one in part.kw_defaults if one)]:
                        yield from _all(scope, self._expressions.within(default))
                case ast.ExceptHandler():
                    yield from _all(scope, self._handler(part))
                    yield from self.inside(part, scope)
                case _:
                    yield from self.inside(part, scope)

    def _statement(self, node: ast.stmt, scope: str) -> Iterator[_Scoped]:
        if _is_left_alone(node):
            return
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                scope = f"{scope}.{name}".lstrip(".")
            case ast.Assign(targets=[ast.Name(id=name)]) if not scope:
                scope = name
            case ast.If() | ast.While():
                yield from _all(scope, [self._expressions.negated(node.test)])
            case _:
                pass
        yield from _all(scope, self._other(node))
        if isinstance(node, _REMOVED) or (isinstance(node, ast.Assign) and _is_a_place(node.targets[0])):
            at = self._text.statement(self._text.start(node))
            yield from _all(scope, [Edit(self._text.start(node), self._text.end(node), "pass", f'without "{at}"')])
        yield from self.inside(node, scope)

    def _other(self, node: ast.stmt) -> Iterator[Edit]:
        """The statement does something else."""
        match node:
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield self._expressions.edit(value, "None", "returns None")
            case ast.Break():
                yield self._block([node], "continue", "break → continue")
            case ast.Continue():
                yield self._block([node], "break", "continue → break")
            case ast.AugAssign() if type(node.op) in ARITHMETIC:
                old, new = ARITHMETIC[type(node.op)]
                yield from self._expressions.operator(node.target, node.value, f"{old}=", f"{new}=")
            case ast.With() | ast.AsyncWith():
                yield from self._unguarded(node)
            case ast.Try() if node.finalbody:
                yield self._block(node.finalbody, "pass", "finally does nothing")
            case _:
                pass

    def _unguarded(self, node: _Guard) -> Iterator[Edit]:
        """The block runs without its context manager."""
        if len(node.items) == 1 and node.items[0].optional_vars is None:
            start, manager = self._text.start(node), node.items[0].context_expr
            change = f'without "{self._text.statement(start)}" around it'
            yield Edit(start, self._text.end(manager), "if (True)", change)

    def _handler(self, node: ast.ExceptHandler) -> Iterator[Edit]:
        caught = self._text.statement(self._text.start(node)).rstrip(":")
        yield self._block(node.body, "raise", f'raises again in "{caught}"')
        if isinstance(node.type, ast.Tuple) and len(node.type.elts) > 1:
            for gone in node.type.elts:
                left = ", ".join(self._text.of(one) for one in node.type.elts if one is not gone)
                yield self._expressions.edit(node.type, f"({left},)", f"without {self._text.of(gone)}")

    def _block(self, body: Sequence[ast.stmt], new: str, change: str) -> Edit:
        return Edit(self._text.start(body[0]), self._text.end(body[-1]), new, change)


def _all(scope: str, found: Iterator[Edit] | Sequence[Edit]) -> Iterator[_Scoped]:
    for edit in found:
        yield scope or "the file", edit


def _is_left_alone(node: ast.stmt) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Global() | ast.Nonlocal() | ast.Pass():
            return True
        case ast.Expr(value=ast.Constant()):
            return True  # documentation
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return name in _LOGS
        case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.AnnAssign(value=None):
            return True
        case _:
            return False


def _is_for_people(node: ast.AST, part: ast.expr) -> bool:
    """The expression is a type, a decorator or a base class, or an exception that is raised, message included."""
    match node:
        case ast.AnnAssign():
            return part is node.annotation
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Raise() | ast.ExceptHandler():
            return True
        case _:
            return False


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _is_a_place(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute | ast.Subscript)
