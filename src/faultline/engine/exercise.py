"""A module's exercise as its folder holds it: `module.toml`, starter, reference, alternatives, mutants, outsiders."""

import ast
import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from faultline.engine.errors import BadModule, NotBuilt
from faultline.engine.roadmap import Module

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_T = TypeVar("_T")


class Outsider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A popular library under our checks, and what was measured of it."""

    file: _Text  # in outsiders/
    package: _Text
    version: _Text
    fails: tuple[str, ...]  # the checks that it fails; it passes all others
    why: _Text
    sometimes: tuple[str, ...] = ()  # fails these in some runs: by chance, or by what the wall clock shows


class ModuleToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the engine must know of a module."""

    title: _Text
    summary: _Text
    minutes: Annotated[int, msgspec.Meta(gt=0)]
    difficulty: Annotated[int, msgspec.Meta(ge=1, le=5)]
    concepts: tuple[_Text, ...]
    requires: tuple[str, ...]
    components: tuple[str, ...]
    files: Annotated[
        tuple[_Text, ...], msgspec.Meta(min_length=1)
    ]  # of the exercise; the first is the one that checks load
    example: dict[str, Annotated[int, msgspec.Meta(ge=1, le=9)]] = {}  # how many of which component it needs
    budget: Annotated[float, msgspec.Meta(gt=0, le=120)] = 20.0  # seconds that all checks may take together
    outsiders: tuple[Outsider, ...] = ()


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"replacement": "with"}):
    """A known mistake, as one edit of the reference."""

    name: _Text
    why: _Text
    caught_by: Annotated[tuple[_Text, ...], msgspec.Meta(min_length=1)]  # each of these checks must refuse it
    diagnosis: _Text  # shown to a learner whose failure looks the same
    looks_like: _Text  # regular expression on what the first of these checks has seen
    replace: _Text
    replacement: str


class _MutantsToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mutants: tuple[Mutant, ...]


class Survivors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Automatic mutants that no check refuses, and why that is right."""

    mutants: Annotated[tuple[_Text, ...], msgspec.Meta(min_length=1)]  # by name, as `lab verify` tells it
    why: _Text
    unseen: bool = False  # they are wrong, and no check can see it; otherwise they keep every promise of the starter


class _EquivalentsToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    survivors: tuple[Survivors, ...]


class Exercise(msgspec.Struct, frozen=True):
    """Everything about one built module; `load` makes it."""

    module: Module
    toml: ModuleToml
    mutants: tuple[Mutant, ...]
    survivors: tuple[Survivors, ...] = ()

    @property
    def checks(self) -> Path:
        """The grader."""
        return self.module.path / "checks.py"

    @property
    def starter(self) -> Path:
        """The folder that `lab start` copies."""
        return self.module.path / "exercise"

    @property
    def reference(self) -> Path:
        """The folder with our solution."""
        return self.module.path / "solution"

    @property
    def alternatives(self) -> list[Path]:
        """Folders with other correct solutions."""
        return sorted(path for path in (self.module.path / "alternatives").glob("[!._]*") if path.is_dir())

    @property
    def entry(self) -> str:
        """The name under which the checks load the solution."""
        return Path(self.toml.files[0]).stem

    def mutated(self, mutant: Mutant) -> str:
        """The reference's first file with the mistake in it; raises `BadModule` unless the edit fits exactly once."""
        path = self.reference / self.toml.files[0]
        source = files_in(self.reference, self)[path.name]
        found = source.count(mutant.replace)
        where = f"{self.module.path / 'mutants.toml'}: mutant {mutant.name!r}"
        if found != 1:
            raise BadModule(f"{where}: what it replaces is in {path.name} {found} times instead of once")
        changed = source.replace(mutant.replace, mutant.replacement)
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise BadModule(f"{where}: the result does not parse, line {error.lineno}: {error.msg}") from error
        return changed

    def diagnosis(self, check: str, seen: str) -> str:
        """What the known mistake that fails `check` in this way is about, or ""."""
        for mutant in self.mutants:
            if check in mutant.caught_by and re.search(mutant.looks_like, seen):
                return mutant.diagnosis
        return ""


def load(module: Module) -> Exercise:
    """Read the module's folder; raises `NotBuilt` where there is none yet, `BadModule` where it is wrong."""
    if not module.built:
        raise NotBuilt(f"{module.id} ({module.title}) is not built yet; ./lab next shows what is")
    toml = _decode(module.path / "module.toml", ModuleToml)
    mutants = _decode(module.path / "mutants.toml", _MutantsToml).mutants
    for mutant in mutants:
        try:
            re.compile(mutant.looks_like)
        except re.error as error:
            where = f"{module.path / 'mutants.toml'}: looks_like of mutant {mutant.name!r}"
            raise BadModule(f"{where} is no regular expression: {error}") from error
    for name in toml.files:
        if Path(name).name != name:
            raise BadModule(f"{module.path / 'module.toml'}: {name!r} in files must be a plain file name")
    listed = module.path / "equivalents.toml"  # a module whose every automatic mutant is refused has none
    survivors = _decode(listed, _EquivalentsToml).survivors if listed.exists() else ()
    return Exercise(module, toml, mutants, survivors)


def _decode(path: Path, shape: type[_T]) -> _T:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=shape)
    except OSError as error:
        raise BadModule(f"{path} cannot be read: {error.strerror}; restore it with git checkout") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadModule(f"{path}: {error}; correct it there, or restore it with git checkout") from error


def files_in(folder: Path, exercise: Exercise) -> dict[str, str]:
    """The exercise's files as they are in that folder, by name; raises `BadModule` if one cannot be read."""
    return {name: text_of(folder / name) for name in exercise.toml.files}


def text_of(path: Path) -> str:
    """A file of a module; raises `BadModule` if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadModule(f"{path} cannot be read: {error}; restore it with git checkout") from error


def hints(exercise: Exercise) -> list[str]:
    """The hints of `hints.md`, one a second-level heading, from nudge to near-answer; raises `BadModule` for none."""
    path = exercise.module.path / "hints.md"
    found = [part.strip() for part in f"\n{text_of(path)}".split("\n## ")[1:]]
    if not found:
        raise BadModule(f"{path} holds no hint; each begins with a second-level heading")
    return found
