"""What a history keeps, and what the checker may know of the shop."""

import ast
from pathlib import Path

import pytest

import faultline.chaos
from faultline.chaos.history import History, Outcome, read


def test_an_operation_is_on_disk_before_it_is_over_and_is_unknown_until_then(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    with history.operation("ada", "place", key="k") as operation:
        (begun,) = history.operations()
        assert (begun.outcome, begun.ended, begun.asked) == (Outcome.UNKNOWN, float("inf"), {"key": "k"})
        operation.ok(id="one")
    (ended,) = history.operations()
    assert (ended.outcome, ended.told) == (Outcome.OK, {"id": "one"})
    assert begun.invoked == ended.invoked <= ended.ended < float("inf")


def test_an_operation_that_raises_or_says_nothing_is_unknown(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    with pytest.raises(TimeoutError), history.operation("ada", "place"):
        raise TimeoutError
    with history.operation("ada", "place"):
        pass
    with history.operation("ada", "place") as operation:
        operation.failed(status=409)
    assert [one.outcome for one in history.operations()] == [Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.FAILED]


def test_a_history_goes_on_behind_a_line_that_a_kill_has_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History(path).operation("ada", "place") as operation:
        operation.ok()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert [one.outcome for one in read(path)] == [Outcome.OK]
    with History(path).operation("bob", "place") as operation:
        operation.ok()
    assert [(one.client, one.outcome) for one in read(path)] == [("ada", Outcome.OK), ("bob", Outcome.OK)]


def test_of_the_shop_the_checker_knows_the_map() -> None:
    folder = Path(faultline.chaos.__file__).parent
    imported = {
        name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if name.startswith("faultline.shop")
    }
    assert imported == {"faultline.shop.topology"}
