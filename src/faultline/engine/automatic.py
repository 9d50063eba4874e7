"""The automatic mutants of a module's reference, and the rule that they are held to.

At least `SHARE` of them are refused, or all but `SPARED` where that is fewer: of 30 mutants two are more than 5 %. And
each of the others stands in `equivalents.toml` with the reason why it may pass. Neither a run that broke nor a verdict
of `unknown` counts as a refusal.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from faultline.engine.errors import BadModule
from faultline.engine.exercise import Exercise, Survivors, files_in
from faultline.engine.mutation import Variant, variants

SHARE = 0.95
SPARED = 3


@dataclass(frozen=True, slots=True)
class Automatic:
    """One automatic mutant: the files, and what the module says about it if it expects no check to refuse it."""

    variant: Variant
    files: dict[str, str]
    listed: Survivors | None


def automatic_mutants(exercise: Exercise) -> list[Automatic]:
    """All of them, in the order of the files; raises `BadModule` if the reference does not parse."""
    files = files_in(exercise.reference, exercise)
    listed = {name: one for one in exercise.survivors for name in one.mutants}
    return [
        Automatic(one, files | {file: one.source}, listed.get(one.name))
        for file, found, _ in _by_file(exercise)
        for one in found
    ]


def stale(exercise: Exercise) -> list[str]:
    """What `equivalents.toml` gets wrong: names that match no mutant (any more), or are there twice."""
    names = [name for one in exercise.survivors for name in one.mutants]
    if not names:
        return []
    known = {name for _, found, same in _by_file(exercise) for name in {one.name for one in found} | same}
    told = [
        f"equivalents.toml lists {name!r}, which is no automatic mutant (any more)"
        for name in names
        if name not in known
    ]
    return told + [
        f"equivalents.toml lists {name!r} twice" for name in sorted({one for one in names if names.count(one) > 1})
    ]


def too_few(refused: int, total: int) -> str:
    """The objection to that many refusals of all mutants, or ""."""
    if refused >= SHARE * total or total - refused <= SPARED:
        return ""
    return f"{refused} of {total} automatic mutants are refused, {refused / total:.1%}; at least {SHARE:.0%} must be"


def _by_file(exercise: Exercise) -> Iterator[tuple[str, list[Variant], set[str]]]:
    several = len(exercise.toml.files) > 1
    for file, source in files_in(exercise.reference, exercise).items():
        if not file.endswith(".py"):
            continue
        try:
            found, same = variants(source)
        except SyntaxError as error:
            raise BadModule(f"{exercise.reference / file}:{error.lineno} does not parse: {error.msg}") from error
        prefix = f"{file} " if several else ""
        yield (
            file,
            [Variant(prefix + one.name, one.source, one.scope) for one in found],
            {prefix + name for name in same},
        )
