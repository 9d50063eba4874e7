"""docs/adding-a-module.md is true: the module that it spells out passes the proof."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = re.compile(r"^`(?P<path>[\w./-]+)`\n\n```(?:python|toml)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


def clone_with_module(root: Path) -> list[str]:
    """A clone at `root` whose redis/01 is what the page says; the files that it spells out."""
    (root / ".lab").mkdir(parents=True)
    for shared in ("requirements", ".venv"):
        (root / shared).symlink_to(ROOT / shared)
    if (fetched := ROOT / ".lab" / "components").exists():
        (root / ".lab" / "components").symlink_to(fetched)
    (root / "sandbox").mkdir()
    (root / "sandbox" / "roadmap.toml").symlink_to(ROOT / "sandbox" / "roadmap.toml")
    module = root / "sandbox" / "redis-learning" / "01-basic-operations"
    found = {
        match["path"]: match["text"] for match in FILE.finditer((ROOT / "docs" / "adding-a-module.md").read_text())
    }
    for name, text in found.items():
        path = module / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return sorted(found)


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.timeout(180)  # forty runs
def test_the_module_on_the_page_passes_the_proof(tmp_path: Path) -> None:
    files = clone_with_module(tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "faultline.cli", "verify", "redis/01", "--json"],
        env={**os.environ, "LAB_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "mutants.toml" in files, files
    assert "checks.py" in files, files
    proof = json.loads(done.stdout)[0]
    assert [case for case in proof["cases"] if case["objections"]] == []
    kinds = [case["kind"] for case in proof["cases"] if case["kind"] != "automatic"]
    assert kinds == ["starter", "empty", "reference", "alternative", *["mutant"] * 4]
    assert proof["automatic"] == {"all": 30, "refused": 28}
    lacking = ("README.md", "example.py", "hints.md")
    assert [name in line for name, line in zip(lacking, proof["lacks"], strict=True)] == [True] * 3
