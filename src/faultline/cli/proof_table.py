"""A module's proof in the terminal: a row a case, one for all automatic mutants, and what objects."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faultline.engine.cases import AUTOMATIC, Answer
from faultline.engine.proof import Result
from faultline.engine.proof_summary import Proof

_LONGEST = 46  # characters of a case's name, so that a row fits into 100 columns


def print_proof(proof: Proof, console: Console, *, seconds: float, busy: bool) -> None:
    """The table, the objections, and a line that sums it up."""
    console.print(_table(proof))
    for objection in proof.objections:
        console.print(f"  [red]✗[/] {escape(objection)}", highlight=False)
    new = proof.runs - proof.remembered
    told = (
        f"  {new} run{'' if new == 1 else 's'} in {seconds:.0f} s"
        if new or not proof.remembered
        else "  nothing to run"
    )
    if proof.remembered and proof.oldest:
        told += f", {proof.remembered} of {proof.runs} remembered from {proof.oldest.astimezone():%Y-%m-%d}"
    if proof.undecided:
        told += f", {proof.undecided} more undecided by a busy machine and run again alone"
    told += f", {len(proof.objections)} objections" + (", on a busy machine" if busy else "")
    console.print(told, highlight=False)


def print_objections(proofs: Sequence[Proof], console: Console) -> None:
    """All that objects in several modules, once more at the end, where it is read first."""
    objections = [(proof.exercise.module.id, one) for proof in proofs for one in proof.objections]
    console.print(f"{len(proofs)} modules, {len(objections)} objections", highlight=False)
    for module, objection in objections:
        console.print(f"  [red]✗[/] {module}  {escape(objection)}", highlight=False)


def _table(proof: Proof) -> Table:
    chosen = proof.exercise
    table = Table(title=f"{chosen.module.id}  {chosen.toml.title}", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("kind", no_wrap=True)
    table.add_column("case")
    for column in ("runs", "known", "median s", "max s"):
        table.add_column(column, justify="right", no_wrap=True)
    shown_all = False
    for result in proof.results:
        if result.case.kind != AUTOMATIC:
            table.add_row(_mark([result]), result.case.kind, escape(_short(result.case.name)), *_figures([result]))
        elif not shown_all:
            shown_all = True
            mutants = proof.of(AUTOMATIC)
            table.add_row(_mark(mutants), AUTOMATIC, _told(proof), *_figures(mutants))
    return table


def _told(proof: Proof) -> str:
    mutants = proof.of(AUTOMATIC)
    unclear = sum(one.answer is Answer.UNCLEAR for one in mutants)
    listed = sum(bool(one.case.why) for one in mutants)
    told = f"{len(proof.refused)} of {len(mutants)} refused, {len(proof.refused) / len(mutants):.1%}"
    told += f"; {listed} listed" if listed else ""
    return told + (f"; {unclear} unclear" if unclear else "")


def _figures(results: list[Result]) -> Iterator[str]:
    seconds = sorted(one for result in results for one in result.seconds)
    yield str(len(seconds))
    yield str(sum(result.remembered for result in results) or "")
    yield f"{seconds[len(seconds) // 2]:.2f}" if seconds else "-"
    yield f"{seconds[-1]:.2f}" if seconds else "-"


def _mark(results: list[Result]) -> str:
    return "[red]✗[/]" if any(result.objections for result in results) else "[green]✓[/]"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
