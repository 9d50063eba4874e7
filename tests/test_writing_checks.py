"""docs/writing-checks.md is true: each example on the page runs, and its faults hit."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faultline import testbed as vocabulary
from faultline.components import Clone
from faultline.testbed import Testbed
from faultline.testbed.nursery import Nursery
from faultline.testbed.postgres import SharedPostgres
from faultline.testbed.testbed import Solution

PAGE = (Path(__file__).parents[1] / "docs" / "writing-checks.md").read_text()
SOLUTION, *EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
WORDS: dict[str, Any] = {"asyncio": asyncio, **{name: getattr(vocabulary, name) for name in vocabulary.__all__}}


def checks() -> dict[str, Any]:
    found = dict[str, Any]()
    for number, example in enumerate(EXAMPLES):
        names = dict(WORDS)
        exec(compile(example, f"example {number}", "exec"), names)
        found |= {name: value for name, value in names.items() if name.startswith("test_")}
    return found


CHECKS = checks()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery.forked()
    yield nursery
    nursery.close()


@pytest.mark.parametrize("name", CHECKS)
async def test_the_example_on_the_page_passes(tmp_path: Path, nursery: Nursery, name: str) -> None:
    (tmp_path / "answer.py").write_text(SOLUTION)
    async with (
        SharedPostgres(tmp_path / "shared", Clone.here()) as databases,
        Testbed.opened(
            solution=Solution(tmp_path, "answer"),
            folder=tmp_path / "run",
            seed=1,
            nursery=nursery,
            clone=Clone.here(),
            databases=databases,
        ) as testbed,
    ):
        await CHECKS[name](testbed)
        testbed.prove_faults()


def test_every_word_has_an_example() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    without = [section.splitlines()[0] for section in sections if "```python" not in section]
    assert without == ["Truth", "Not there yet"]
    assert len(CHECKS) == len(EXAMPLES) + 1
