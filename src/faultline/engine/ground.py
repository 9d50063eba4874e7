"""What the verdict on some files depends on besides the files, as one hash: the ground that a proof stands on.

The checks, what `module.toml` tells the runs, the sources of all that executes in a run (found by following the
imports of the warm runner), the locked packages, the servers' programs, Python. A byte of it changes, and what was
remembered on the old ground is not asked for any more.
"""

import ast
import functools
import hashlib
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from faultline.components import Clone, describe
from faultline.components.providers import Absent, Program
from faultline.engine.exercise import Exercise, text_of

_PACKAGES = Path(__file__).parents[2]  # the folder that `faultline` is in
_START = "faultline.engine.warm"


def ground(exercise: Exercise, root: Path, *, busy: bool) -> str:
    """The hash of it; `busy`: the runs are on a machine that is kept busy."""
    clone = Clone.here()
    digest = hashlib.sha256()
    toml = exercise.toml
    _feed(digest, ["ground 1", sys.version, platform.machine(), str(busy)])
    _feed(digest, [*toml.files, "", *toml.components, "", str(toml.budget)])
    _feed(digest, [text_of(exercise.checks)])
    for path in (*sources([_START]), root / "requirements" / "lab.txt"):
        _feed(digest, [path.name, path.read_bytes()])
    for component in toml.components:
        _feed(digest, [component, *_programs(component, clone)])
    return digest.hexdigest()


def key(on: str, files: dict[str, str], *, mode: str, only: Sequence[str], beside: Iterable[Path] = ()) -> str:
    """The hash of one case on that ground; `beside`: other files that it depends on."""
    digest = hashlib.sha256()
    _feed(digest, [on, mode, *sorted(only), ""])
    for name, text in sorted(files.items()):
        _feed(digest, [name, text])
    for path in beside:
        _feed(digest, [path.name, path.read_bytes()])
    return digest.hexdigest()


def sources(modules: Iterable[str]) -> list[Path]:
    """The files of these modules and of all of ours that they import, however late, in order."""
    found: dict[str, Path | None] = {}  # None for what is no module of ours
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = path = _file(name)
        if path is not None:
            waiting += _imported(path.read_text())
            waiting += [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
    return [path for _, path in sorted(found.items()) if path is not None]


@functools.cache  # a proof asks after each of its runs, and parsing all took more of the processor than a run
def _imported(text: str) -> Sequence[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found += (one.name for one in names)
            case ast.ImportFrom(module=str(module), names=names):
                found += [module, *(f"{module}.{one.name}" for one in names)]
            case _:
                pass
    return found


def _file(name: str) -> Path | None:
    """The file of one of our modules; None for what is no module of ours."""
    if not name.startswith("faultline.") and name != "faultline":
        return None
    place = _PACKAGES.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _programs(component: str, clone: Clone) -> Iterator[str | bytes]:
    """The locks of what is fetched, and the server's program if it came from elsewhere: its place, size and time."""
    for lock in sorted(clone.locks.glob(f"{component}*")):
        yield lock.read_bytes()
    for offer in describe(component).sources.survey(clone):
        if isinstance(offer, Program) and not offer.path.is_relative_to(clone.components):
            stat = Path(offer.real_path).stat()
            yield f"{offer.provider} {offer.real_path} {stat.st_size} {stat.st_mtime_ns}"
        if not isinstance(offer, Absent):
            return


def _feed(digest: "hashlib._Hash", parts: Iterable[str | bytes]) -> None:
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
