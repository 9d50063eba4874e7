"""The documentation is true: links and anchors lead somewhere, the map is the tree, the verbs are all named."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]


def markdown_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def tokens(path: Path) -> Iterator[Token]:
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(path.read_text()):
        yield token
        yield from token.children or ()


def targets(path: Path) -> list[str]:
    found = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in tokens(path)]
    return [target for target in found if target and not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """The names that a code host gives to the headings."""
    parsed = list(MarkdownIt().parse(path.read_text()))
    titles = [after.content for token, after in zip(parsed, parsed[1:], strict=False) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in targets(path):
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.relative_to(ROOT)} links to {target}, which is not there"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{path.relative_to(ROOT)} links to {target}: no such heading"


def test_the_map_in_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    drawn = text.split("## The map")[1].split("```")[1]
    rooms = set(re.findall(r"^  (\w+)/ ", drawn, re.MULTILINE))
    assert rooms == {path.parent.name for path in (ROOT / "src" / "faultline").glob("*/__init__.py")}
    tops = {name.strip("/").split("/")[0] for name in re.findall(r"^(\S+)", drawn, re.MULTILINE)}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line and not line.startswith(".")}
    assert tops - {"lab", "workspace"} == folders


def test_every_verb_that_the_documentation_names_is_there() -> None:
    from faultline.cli.__main__ import VERBS

    for path in markdown_files():
        for verb in re.findall(r"\./lab ([a-z]+)", path.read_text()):
            assert verb in VERBS, f"{path.relative_to(ROOT)} names ./lab {verb}"
    for verb in VERBS:
        assert (ROOT / "src" / "faultline" / "cli" / f"{verb}.py").exists(), f"./lab {verb} is listed and not there"


def test_nothing_names_this_machine_or_a_registry() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hosts = "|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs", "proxy" + r"\.golang"))
    for name in tracked.splitlines():
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            assert not re.search(hosts, path.read_text(errors="ignore")), f"{name} names a registry's host"
            assert str(ROOT) + "/" not in path.read_text(errors="ignore"), f"{name} names a path of this machine"
