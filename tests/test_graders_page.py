"""docs/graders.md belongs to the modules that are here: their names, how many of each kind, what they list."""

import re
from pathlib import Path

import pytest

from faultline.engine import exercise, roadmap
from faultline.engine.automatic import automatic_mutants, too_few
from faultline.engine.module_shape import check_names
from faultline.engine.roadmap import Module

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "graders.md").read_text()
BUILT = [module for module in roadmap.load(ROOT).exercises if module.built]


def cells(module: Module) -> list[str]:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| [{module.id}]")]
    return [cell.strip() for cell in row.strip("|").split("|")]


ROWS = re.findall(r"^\| \[([^]]+)\]", PAGE, re.MULTILINE)
PROVEN = [module for module in BUILT if module.id in ROWS]


def test_every_module_that_is_built_has_a_row_or_is_named_as_not_proven() -> None:
    unproven = re.search(r"^Built, and not proven on this page: (.*)\.$", PAGE, re.MULTILINE)
    named = [*ROWS, *(unproven[1].split(", ") if unproven else [])]
    assert sorted(named) == sorted(module.id for module in BUILT), "run ./lab verify --write"


@pytest.mark.parametrize("module", PROVEN, ids=lambda module: module.id)
def test_the_row_counts_what_the_module_holds(module: Module) -> None:
    held = exercise.load(module)
    mutants = len(automatic_mutants(held))
    listed = sum(len(one.mutants) for one in held.survivors)
    row = cells(module)
    alternatives, named, outsiders = (
        f"{count} of {count}" for count in (len(held.alternatives), len(held.mutants), len(held.toml.outsiders))
    )
    assert row[4:6] == [f"{alternatives} accepted", f"{named} refused"], "run ./lab verify --write"
    assert row[7] == f"{outsiders} as recorded", "run ./lab verify --write"
    found = re.fullmatch(r"(\d+) of (\d+) refused, [\d.]+%; (\d+) listed", row[6])
    assert found, row[6]
    assert [int(found[2]), int(found[3])] == [mutants, listed], "run ./lab verify --write"
    assert int(found[1]) == mutants - listed
    assert too_few(int(found[1]), mutants) == ""


@pytest.mark.parametrize("module", PROVEN, ids=lambda module: module.id)
def test_the_section_names_every_check_outsider_and_survivor(module: Module) -> None:
    held = exercise.load(module)
    section = PAGE.split(f"## {module.id} {held.toml.title}")[1].split("\n## ")[0]
    names = [*check_names(held), *(name for one in held.survivors for name in one.mutants)]
    names += [f"{one.package} {one.version}" for one in held.toml.outsiders]
    assert [name for name in names if name not in section] == [], "run ./lab verify --write"
