"""docs/graders.md: the matrix of all proofs, as `./lab verify --write` publishes it."""

import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from faultline.components import Clone, describe
from faultline.components.providers import Program
from faultline.engine.atomic_write import write_atomically
from faultline.engine.cases import AUTOMATIC, cases
from faultline.engine.memory import Memory
from faultline.engine.module_shape import check_names
from faultline.engine.proof import Ground, Result, recalled
from faultline.engine.proof_summary import Proof

PAGE = Path("docs") / "graders.md"
_INTRODUCTION = """# The graders, graded

Every grader must refuse what is wrong and accept whatever is right, also what is written differently. This page says
how far that is shown. It is written by `./lab verify --write`, and no figure in it by hand.

- **Starter** and **empty** file: no check passes.
- **Reference** and **alternatives**, correct solutions written differently: every check passes.
- **Named mutants**, known mistakes: each is refused by the checks that `mutants.toml` names for it.
- **Automatic mutants**: every small change of the reference ([what they are](decisions/0010-automatic-mutants.md)). At
  least 95 % are refused; each of the others is listed below with the reason why it may pass. What broke or stayed
  `unknown` counts as not refused.
- **Outsiders**, popular libraries under the same checks: they fail what `module.toml` records, and nothing else.
- **Flakes**: runs of starter, reference, alternatives and named mutants that did not end as they must.
- **Time**: the reference's median run, and the budget that it must keep.
"""
_HEAD = ("module", "starter", "empty", "reference", "alternatives", "named mutants", "automatic mutants", "outsiders")


def write_page(root: Path, proofs: Sequence[Proof], memory: Memory, *, others: Sequence[str]) -> None:
    """Write the page; `others`: the modules that are built and not in these proofs. Raises `NotWritten`."""
    write_atomically(root / PAGE, page(root, proofs, memory, others=others))


def page(root: Path, proofs: Sequence[Proof], memory: Memory, *, others: Sequence[str]) -> str:
    """The page's text. Runs on a busy machine are taken from the memory."""
    parts = [_INTRODUCTION, _circumstances(root, proofs)]
    rows = [[*_HEAD, "flakes", "time"], *(_row(proof, _busy(proof, root, memory)) for proof in proofs)]
    parts.append(_table(rows))
    if others:
        parts.append(f"Built, and not proven on this page: {', '.join(others)}.\n")
    parts += ["\n".join(_section(proof)) for proof in proofs]
    return "\n".join(parts)


def _circumstances(root: Path, proofs: Sequence[Proof]) -> str:
    clone = Clone(root, os.environ)
    wanted = sorted({name for proof in proofs for name in proof.exercise.toml.components})
    versions = [f"Python {platform.python_version()}"]
    for name in wanted:
        offers = describe(name).sources.survey(clone)
        versions += [f"{name} {offer.version()} ({offer.provider})" for offer in offers if isinstance(offer, Program)][
            :1
        ]
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {system}"
    return f"Written on {datetime.now(UTC):%Y-%m-%d}, on {machine}, with {', '.join(versions)}.\n"


def _busy(proof: Proof, root: Path, memory: Memory) -> list[Result]:
    """What is remembered of runs on a machine that was kept busy."""
    repeated = [case for case in cases(proof.exercise, root=root, timed=False) if case.repeated]
    return recalled(Ground(proof.exercise, root, busy=True), repeated, memory)


def _row(proof: Proof, busy: Sequence[Result]) -> list[str]:
    reference = proof.of("reference")[0]
    mutants = proof.of(AUTOMATIC)
    listed = sum(bool(one.case.why) for one in mutants)
    automatic = f"{len(proof.refused)} of {len(mutants)} refused"
    if mutants:
        automatic += f", {len(proof.refused) / len(mutants):.1%}; {listed} listed"
    idle = [result for result in proof.results if result.case.repeated]
    counted, on_busy = sum(len(one.runs) for one in (*idle, *busy)), sum(len(one.runs) for one in busy)
    flakes = sum(len(one.objections) for one in (*idle, *busy))
    budget = proof.exercise.toml.budget
    return [
        f"[{proof.exercise.module.id}](#{_anchor(_title(proof))})",
        _as_it_must(proof, "starter", "refused"),
        _as_it_must(proof, "empty", "refused"),
        _as_it_must(proof, "reference", "accepted"),
        _share(proof, "alternative", "accepted"),
        _share(proof, "mutant", "refused"),
        automatic,
        _share(proof, "outsider", "as recorded"),
        f"{flakes} of {counted} runs, {on_busy} of them on a busy machine",
        f"{reference.median:.1f} s of {budget:g} s",
    ]


def _as_it_must(proof: Proof, kind: str, word: str) -> str:
    return word if not any(one.objections for one in proof.of(kind)) else f"**not {word}**"


def _share(proof: Proof, kind: str, word: str) -> str:
    results = proof.of(kind)
    return f"{sum(not one.objections for one in results)} of {len(results)} {word}"


def _section(proof: Proof) -> Iterator[str]:
    exercise = proof.exercise
    yield f"## {_title(proof)}\n"
    named = Counter(check for mutant in exercise.mutants for check in mutant.caught_by)
    first = proof.refusals()
    rows = [["check", "named mutants", "automatic mutants that it refused first", "outsiders that fail it"]]
    for check in check_names(exercise):
        outsiders = [f"{one.package} {one.version}" for one in exercise.toml.outsiders if check in one.fails]
        rows.append([f"`{check}`", str(named[check]), str(first[check]), ", ".join(outsiders)])
    yield _table(rows)
    passing = [f"{one.package} {one.version}" for one in exercise.toml.outsiders if not one.fails]
    if passing:
        yield f"Outsiders that pass every check: {', '.join(passing)}.\n"
    if exercise.survivors:
        yield "Automatic mutants that are expected to pass, and why:\n"
    for one in exercise.survivors:
        kind = "**No check can see it.** " if one.unseen else ""
        yield "\n".join(f"- `{name}`" for name in one.mutants) + f"\n\n  {kind}{one.why}\n"
    if proof.objections:
        yield "**What objects:**\n"
        yield "\n".join(f"- {objection}" for objection in proof.objections) + "\n"


def _title(proof: Proof) -> str:
    return f"{proof.exercise.module.id} {proof.exercise.toml.title}"


def _anchor(title: str) -> str:
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
