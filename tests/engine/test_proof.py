"""The proof of a grader reports a grader that is weak, empty or over-strict, and mutants that do not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faultline.engine import exercise, roadmap
from faultline.engine.errors import BadModule
from faultline.engine.exercise import Exercise
from faultline.engine.module_names import find_module
from faultline.engine.module_shape import objections
from faultline.engine.proof import cases, prove
from faultline.engine.warm import WarmRunner


def loaded(root: Path) -> Exercise:
    return exercise.load(find_module(roadmap.load(root), "redis/05"))


Proved = Callable[..., dict[str, list[str]]]


@pytest.fixture
def proved(warm: WarmRunner, tiny_clone: Path) -> Proved:
    """Proves the counter's grader and gives the objections to each case."""

    def prove_it(*, repeat: int = 1) -> dict[str, list[str]]:
        chosen = loaded(tiny_clone)
        results = {
            f"{result.case.kind} {result.case.name}": result
            for result in prove(chosen, tiny_clone, warm, cases(chosen, timed=True), repeat=repeat)
        }
        assert not list((tiny_clone / ".lab" / "runs").iterdir())
        assert all(len(result.seconds) == (repeat if result.case.repeated else 1) for result in results.values())
        return {name: result.objections for name, result in results.items()}

    return prove_it


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CASES = {"starter starter", "empty empty file", "reference reference", "alternative list", "mutant adds one too many"}


def test_a_good_grader_has_no_objections_however_often_it_is_asked(proved: Proved) -> None:
    found = proved(repeat=3)
    assert found == {name: [] for name in CASES}


def test_a_weak_check_accepts_a_mutant(proved: Proved, tiny_module: Path) -> None:
    edit(tiny_module / "checks.py", "assert total == 3", "assert total >= 3")
    found = proved()
    assert found.pop("mutant adds one too many")[0].startswith("not refused by counts (seed ")
    assert not any(found.values())


def test_a_refusal_for_another_reason_is_none(proved: Proved, tiny_module: Path) -> None:
    edit(tiny_module / "mutants.toml", "the total is 6", "the total is 7")
    [objection] = proved()["mutant adds one too many"]
    assert objection.startswith("counts saw 'after three times one the total is 6', which does not look like")


def test_a_vacuous_check_accepts_the_starter(proved: Proved, tiny_module: Path) -> None:
    (tiny_module / "checks.py").write_text(
        f'{(tiny_module / "checks.py").read_text()}\nasync def test_nothing(testbed):\n    """Nothing."""\n'
    )
    found = proved()
    for name in ("starter starter", "empty empty file"):
        assert found.pop(name)[0].startswith("passed nothing (seed ")
    assert not any(found.values())


def test_an_over_strict_check_refuses_the_alternative(proved: Proved, tiny_module: Path) -> None:
    edit(
        tiny_module / "checks.py",
        'assert await counter.total() == 0, "a new counter is not at zero"',
        'assert await counter.fetch("_total") == 0',
    )
    found = proved()
    assert found.pop("alternative list")[0].startswith("begins_at_zero: fail, your code raised AttributeError")
    assert not any(found.values())


def test_checks_that_are_errors_or_unknown_prove_nothing(proved: Proved, tiny_module: Path) -> None:
    edit(tiny_module / "checks.py", "total = await counter.total()", "raise KeyError('ours')")
    found = proved()
    assert found.pop("mutant adds one too many")[0].startswith("counts: error, KeyError: 'ours'")
    assert "counts: error" in found["reference reference"][0]


@pytest.mark.parametrize(
    ("checks", "objection"),
    [("", "0 of 0 checks were judged"), ("import nothing_like_it", "the grader broke: ")],
    ids=["no checks", "broken"],
)
def test_a_grader_without_a_verdict_accepts_nobody(
    proved: Proved, tiny_module: Path, checks: str, objection: str
) -> None:
    (tiny_module / "checks.py").write_text(checks)
    (tiny_module / "mutants.toml").write_text("mutants = []")
    assert all(found[0].startswith(objection) for found in proved().values())


def test_a_reference_beyond_its_budget_is_reported(proved: Proved, tiny_module: Path) -> None:
    edit(tiny_module / "module.toml", "minutes = 5", "minutes = 5\nbudget = 0.001")
    assert "of a budget of 0.001 s" in proved()["reference reference"][0]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('replace = "+= number"', 'replace = "absent"', "is in counter.py 0 times instead of once"),
        ('replace = "+= number"', 'replace = "number"', "is in counter.py 4 times instead of once"),
        ('with = "+= number + 1"', 'with = "+= ("', "the result does not parse, line "),
        ('looks_like = "the total is 6"', 'looks_like = "("', "looks_like of mutant 'adds one too many' is no regular"),
        ('caught_by = ["counts", "adds_more_than_one"]', "caught_by = []", "length >= 1"),
    ],
    ids=["absent", "several", "no python", "no pattern", "no check"],
)
def test_a_mutant_that_does_not_fit_is_reported_with_its_file(
    tiny_clone: Path, tiny_module: Path, old: str, new: str, complaint: str
) -> None:
    edit(tiny_module / "mutants.toml", old, new)
    with pytest.raises(BadModule, match=r"mutants\.toml") as wrong:
        cases(loaded(tiny_clone), timed=False)
    assert complaint in str(wrong.value)


def test_a_file_that_is_missing_is_reported_with_its_place(tiny_clone: Path, tiny_module: Path) -> None:
    (tiny_module / "solution" / "counter.py").unlink()
    with pytest.raises(BadModule, match=r"solution/counter\.py cannot be read"):
        cases(loaded(tiny_clone), timed=False)


def test_a_complete_folder_has_no_objections(tiny_clone: Path) -> None:
    assert objections(loaded(tiny_clone)) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "objection"),
    [
        ("checks.py", '"""A new counter is at zero."""', "", "check begins_at_zero makes no promise"),
        ("checks.py", "test_begins_at_zero", "begins_at_zero", "3 checks; a module has at least 4"),
        ("mutants.toml", '"counts", ', '"typo", ', "mutants.toml names the check typo, which is not there"),
        ("README.md", "`counts`", "counts", "the lesson does not name the promise `counts`"),
        ("README.md", "word " * 600, "", "the lesson has 20"),
        ("hints.md", "## Push", "Push", "2 hints; a module has at least 3"),
        ("hints.md", "## ", "", "hints.md holds no hint"),
        ("example.py", "print", "\n" * 150 + "print", "example.py is longer than 150 lines"),
    ],
)
def test_what_a_folder_lacks_is_named(
    tiny_clone: Path, tiny_module: Path, file: str, old: str, new: str, objection: str
) -> None:
    edit(tiny_module / file, old, new)
    assert any(objection in found for found in objections(loaded(tiny_clone))), objections(loaded(tiny_clone))


def test_two_mutants_of_one_name_are_named(tiny_clone: Path, tiny_module: Path) -> None:
    (tiny_module / "mutants.toml").write_text((tiny_module / "mutants.toml").read_text() * 2)
    assert objections(loaded(tiny_clone)) == ["mutants.toml has 2 mutants called 'adds one too many'"]
