"""What every module's folder must hold, beyond what its grader proves."""

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator

from faultline.engine.errors import BadModule
from faultline.engine.exercise import Exercise, hints, text_of

WORDS = range(800, 1601)  # of a lesson
MINIMUM_CHECKS = 4
MINIMUM_HINTS = 3
EXAMPLE_LINES = 150
OUTSIDER_LINES = 40


def objections(exercise: Exercise) -> list[str]:
    """What is missing or too long, a sentence each."""
    return [*_checks(exercise), *_mutants(exercise), *_lesson(exercise), *_files(exercise), *_hints(exercise)]


def check_names(exercise: Exercise) -> dict[str, str]:
    """The checks in their order, with the promise that each makes; raises `BadModule` if there is no reading them."""
    try:
        tree = ast.parse(text_of(exercise.checks))
    except SyntaxError as error:
        raise BadModule(f"{exercise.checks}:{error.lineno} does not parse: {error.msg}") from error
    return {
        node.name.removeprefix("test_"): inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n")[0]
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name.startswith("test_")
    }


def _checks(exercise: Exercise) -> Iterator[str]:
    checks = check_names(exercise)
    if len(checks) < MINIMUM_CHECKS:
        yield f"{len(checks)} checks; a module has at least {MINIMUM_CHECKS}"
    for name, promise in checks.items():
        if not promise:
            yield f"check {name} makes no promise: its docstring is what the learner reads"
    named = {check for mutant in exercise.mutants for check in mutant.caught_by}
    for name in named - set(checks):
        yield f"mutants.toml names the check {name}, which is not there"
    for outsider in exercise.toml.outsiders:
        for name in {*outsider.fails, *outsider.sometimes} - set(checks):
            yield f"module.toml: {outsider.package} fails the check {name}, which is not there"


def _mutants(exercise: Exercise) -> Iterator[str]:
    for name, count in Counter(mutant.name for mutant in exercise.mutants).items():
        if count > 1:
            yield f"mutants.toml has {count} mutants called {name!r}"


def _lesson(exercise: Exercise) -> Iterator[str]:
    path = exercise.module.path / "README.md"
    if not path.is_file():
        yield "no README.md: there is no lesson"
        return
    text = path.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    words = len(re.findall(r"\w[\w'-]*", prose))
    if words not in WORDS:
        yield f"the lesson has {words} words; it should have {WORDS[0]} to {WORDS[-1]}"
    for name in check_names(exercise):
        if f"`{name}`" not in text:
            yield f"the lesson does not name the promise `{name}`"


def _files(exercise: Exercise) -> Iterator[str]:
    folder = exercise.module.path
    if not exercise.alternatives:
        yield "no alternative: nothing shows that another correct solution passes"
    example = folder / "example.py"
    if not example.is_file():
        yield "no example.py"
    elif len(example.read_text().splitlines()) > EXAMPLE_LINES:
        yield f"example.py is longer than {EXAMPLE_LINES} lines"
    for outsider in exercise.toml.outsiders:
        if len(text_of(folder / "outsiders" / outsider.file).splitlines()) > OUTSIDER_LINES:
            yield f"outsiders/{outsider.file} is longer than {OUTSIDER_LINES} lines"


def _hints(exercise: Exercise) -> Iterator[str]:
    try:
        count = len(hints(exercise))
    except BadModule as error:
        yield str(error)
        return
    if count < MINIMUM_HINTS:
        yield f"{count} hints; a module has at least {MINIMUM_HINTS}"
