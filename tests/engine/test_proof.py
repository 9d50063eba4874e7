"""The proof of a grader reports a grader that is weak, empty or over-strict, and mutants that do not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faultline.engine import exercise, roadmap, run_folders
from faultline.engine.cases import AUTOMATIC, cases
from faultline.engine.errors import BadModule
from faultline.engine.exercise import Exercise
from faultline.engine.memory import Memory
from faultline.engine.module_names import find_module
from faultline.engine.module_shape import objections
from faultline.engine.proof import Ground, Subject, prove, recalled
from faultline.engine.proof_summary import Proof
from faultline.engine.warm import WarmRunner


def loaded(root: Path) -> Exercise:
    return exercise.load(find_module(roadmap.load(root), "redis/05"))


Proved = Callable[..., dict[str, list[str]]]


@pytest.fixture
def proved(warm: WarmRunner, tiny_clone: Path, tmp_path: Path) -> Proved:
    """Proves the counter's grader, with nothing remembered, and gives the objections to each case."""

    def prove_it(*, repeat: int = 1, automatic: bool = False) -> dict[str, list[str]]:
        chosen = loaded(tiny_clone)
        wanted = [one for one in cases(chosen, root=tiny_clone, timed=True) if automatic or one.kind != AUTOMATIC]
        memory = Memory(tmp_path / "proof.sqlite")
        on = Ground(chosen, tiny_clone)
        results = recalled(on, wanted, memory, repeat=repeat)
        list(prove([Subject(on, warm, results)], memory))
        assert not run_folders.present(tiny_clone)
        assert all(len(one.runs) == (repeat if one.case.repeated else 1) for one in results if not one.trouble)
        found = {f"{one.case.kind} {one.case.name}": one.objections for one in results}
        return found | {
            "as a whole": [one for one in Proof(chosen, results).objections if " automatic mutants " in one]
        }

    return prove_it


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CASES = {"starter starter", "empty empty file", "reference reference", "alternative list", "mutant adds one too many"}
MUTANTS = 11  # automatic ones


def test_a_good_grader_has_no_objections_however_often_it_is_asked(proved: Proved) -> None:
    found = proved(repeat=3)
    assert found == {name: [] for name in [*CASES, "as a whole"]}


def test_of_a_good_grader_every_automatic_mutant_is_refused(proved: Proved) -> None:
    found = proved(automatic=True)
    assert not any(found.values())
    assert sum(name.startswith("automatic Counter.") for name in found) == MUTANTS


def test_a_weak_check_lets_automatic_mutants_through(proved: Proved, tiny_module: Path) -> None:
    edit(tiny_module / "checks.py", "counter.add(-1)", "counter.add(-9)")
    edit(tiny_module / "checks.py", "    await counter.add(0)\n", "")
    survived = {
        'automatic Counter.add: < → <= in "if number < 0:"',
        'automatic Counter.add: 0 → 1 in "if number < 0:"',
        'automatic Counter.add: 0 → -1 in "if number < 0:"',
    }
    found = proved(automatic=True)
    assert {name for name, objections in found.items() if objections} == survived
    assert all(found[name][0].startswith("no check refuses it: strengthen one, or list it") for name in survived)


def test_too_many_that_pass_are_an_objection_even_if_all_are_listed(proved: Proved, tiny_module: Path) -> None:
    edit(tiny_module / "checks.py", "    await counter.add(0)\n", "    await counter.total()\n")
    edit(tiny_module / "checks.py", '    with testbed.raises("ValueError"):\n        await counter.add(-1)\n', "")
    names = [f'Counter.add: {change} in "if number < 0:"' for change in ("< → <=", "0 → 1", "0 → -1")]
    names.append('Counter.add: without "raise ValueError(number)"')
    listed = "".join(f"  '{name}',\n" for name in names)
    (tiny_module / "equivalents.toml").write_text(f"[[survivors]]\nmutants = [\n{listed}]\nwhy = 'Lazy.'\n")
    found = proved(automatic=True)
    assert found.pop("as a whole") == ["7 of 11 automatic mutants are refused, 63.6%; at least 95% must be"]
    assert not any(found.values())


def test_what_is_listed_as_equivalent_and_refused_is_reported(proved: Proved, tiny_module: Path) -> None:
    name = 'Counter.add: += → -= in "self._total += number"'
    (tiny_module / "equivalents.toml").write_text(f"[[survivors]]\nmutants = ['{name}']\nwhy = 'It seems so.'\n")
    [objection] = proved(automatic=True)[f"automatic {name}"]
    assert objection.startswith("equivalents.toml says that it keeps every promise, and ")


def test_what_is_listed_and_no_mutant_any_more_is_reported(tiny_clone: Path, tiny_module: Path) -> None:
    name = 'Counter.add: 7 → 8 in "if number < 7:"'
    (tiny_module / "equivalents.toml").write_text(f"[[survivors]]\nmutants = ['{name}']\nwhy = 'It was so once.'\n")
    assert Proof(loaded(tiny_clone), []).lacks == [
        f"equivalents.toml lists {name!r}, which is no automatic mutant (any more)"
    ]


def test_a_mutant_that_breaks_the_grader_is_neither_refused_nor_accepted(proved: Proved, tiny_module: Path) -> None:
    broken = "    if total is None:\n        raise LookupError('of our own')\n    assert total == 3"
    edit(tiny_module / "checks.py", "    assert total == 3", broken)
    name = 'automatic Counter.total: returns None in "return self._total"'
    edit(tiny_module / "checks.py", '== 5, "after five', 'in {5, None}, "after five')
    edit(tiny_module / "checks.py", '== 0, "a new', 'in {0, None}, "a new')
    found = proved(automatic=True)
    assert found.pop(name)[0].startswith("neither refused nor accepted: counts: error, LookupError")
    assert not any(found.values())


def test_a_mutant_that_a_busy_machine_leaves_unclear_is_run_again_alone(
    warm: WarmRunner, tiny_clone: Path, tiny_module: Path, tmp_path: Path
) -> None:
    """The first time the check is late, then it keeps its time: unknown. The second time it fails."""
    edit(tiny_module / "checks.py", "import Testbed", "import BudgetMissed, Testbed")
    tries = f"__import__('pathlib').Path({str(tmp_path / 'tries')!r})"
    edit(
        tiny_module / "checks.py",
        "    await counter.add(0)\n",
        "    try:\n        await counter.add(0)\n    except Exception as error:\n"
        f"        with {tries}.open('a+') as file:\n            before = file.tell()\n            file.write('x')\n"
        "        if before == 0:\n            raise BudgetMissed('late', promise='in time', took=1.0) from error\n"
        "        if before > 1:\n            raise\n",
    )
    chosen, name = loaded(tiny_clone), 'Counter.add: < → <= in "if number < 0:"'
    wanted = [one for one in cases(chosen, root=tiny_clone, timed=True) if one.name in {"reference", name}]
    memory, on = Memory(tmp_path / "proof.sqlite"), Ground(chosen, tiny_clone)
    results = recalled(on, wanted, memory)
    answers = [one.answer for _, one in prove([Subject(on, warm, results)], memory)]
    assert answers == ["accepted", "unclear", "refused"]
    assert [(len(one.runs), one.objections) for one in results] == [(1, []), (1, [])]


@pytest.mark.parametrize(("late", "undecided"), [(1, 1), (3, 2), (9, 2)])
def test_a_reference_that_a_busy_machine_leaves_undecided_is_run_again_alone(
    warm: WarmRunner, tiny_clone: Path, tiny_module: Path, tmp_path: Path, late: int, undecided: int
) -> None:
    """The check is late in every other try, `late` times: each first try is followed by one that keeps its time."""
    edit(tiny_module / "checks.py", "import Testbed", "import BudgetMissed, Testbed")
    tries = f"__import__('pathlib').Path({str(tmp_path / 'tries')!r})"
    edit(
        tiny_module / "checks.py",
        "    await counter.add(0)\n",
        f"    await counter.add(0)\n    with {tries}.open('a+') as file:\n"
        "        before = file.tell()\n        file.write('x')\n"
        f"    if before % 2 == 0 and before < 2 * {late}:\n"
        "        raise BudgetMissed('late', promise='in time', took=1.0)\n",
    )
    chosen = loaded(tiny_clone)
    wanted = [one for one in cases(chosen, root=tiny_clone, timed=True) if one.kind == "reference"]
    memory, on = Memory(tmp_path / "proof.sqlite"), Ground(chosen, tiny_clone)
    [result] = recalled(on, wanted, memory)
    list(prove([Subject(on, warm, [result])], memory))
    assert (result.undecided, len(result.runs), len(result.objections)) == (undecided, 1, late > 2)
    assert len(memory.runs(result.key)) == (late <= 2), "what was not decided is remembered"


def test_without_an_accepted_reference_no_automatic_mutant_is_run(proved: Proved, tiny_module: Path) -> None:
    edit(tiny_module / "checks.py", "assert total == 3", "assert total == 4")
    assert proved(automatic=True)["as a whole"] == [
        f"{MUTANTS} automatic mutants not run: the checks do not accept the reference itself"
    ]


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


@pytest.mark.parametrize(
    ("record", "objections"),
    [
        ('fails = ["counts", "adds_more_than_one"]', []),
        ('fails = ["counts"]\nsometimes = ["adds_more_than_one", "begins_at_zero"]', []),
        ('fails = ["counts"]', ["fails adds_more_than_one, which is not recorded"]),
        (
            'fails = ["counts", "adds_more_than_one", "begins_at_zero"]',
            ["does not fail begins_at_zero, as is recorded"],
        ),
    ],
)
def test_an_outsider_is_held_to_its_record(
    proved: Proved, tiny_module: Path, record: str, objections: list[str]
) -> None:
    (tiny_module / "outsiders").mkdir()
    reference = (tiny_module / "solution" / "counter.py").read_text()
    (tiny_module / "outsiders" / "abacus.py").write_text(reference.replace("+= number", "+= number + 1"))
    with (tiny_module / "module.toml").open("a") as file:
        file.write(f'\n[[outsiders]]\nfile = "abacus.py"\npackage = "abacus"\nversion = "1"\nwhy = "."\n{record}\n')
    assert [one.partition(" (seed")[0] for one in proved()["outsider abacus 1"]] == objections


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
    found = proved()
    assert found.pop("as a whole") == []
    assert all(objections[0].startswith(objection) for objections in found.values())


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
        list(cases(loaded(tiny_clone), root=tiny_clone, timed=False))
    assert complaint in str(wrong.value)


def test_a_file_that_is_missing_is_reported_with_its_place(tiny_clone: Path, tiny_module: Path) -> None:
    (tiny_module / "solution" / "counter.py").unlink()
    with pytest.raises(BadModule, match=r"solution/counter\.py cannot be read"):
        list(cases(loaded(tiny_clone), root=tiny_clone, timed=False))


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
