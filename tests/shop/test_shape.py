"""What holds of every service, by looking at its files: one shape, declared words, drawn edges."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

import faultline.shop
from faultline.shop.contracts.events import EVENTS
from faultline.shop.contracts.schema import FOLDER, schemas
from faultline.shop.topology import EDGES, SERVICES, Style, replicas

SHOP = Path(faultline.shop.__file__).parent
PARTS = {
    "__init__",
    "app",
    "api",
    "domain",
    "store",
    "events",
    "rpc",
    "saga",
    "projections",
    "upcasters",
    "routes",
    "flash_sale",
    "feed",  # whoever watches inventory's stock, or is looking while notifications come
    "imports",  # what comes into it row by row
    "work",  # what payment's commands begin
    "webhooks",  # what the provider sends by itself
    "oauth",  # users' second set of routes: what RFCs have laid down
    "passwords",  # slow on purpose, in threads of their own
    "keys",  # what signs tokens, and what the gateway knows of it
    "tokens",  # what they say
    "edge_cache",  # what the gateway keeps of others' answers
    "pages",  # what it puts together of them
    "policy",  # who may what, as a page
    "star",  # how what analytics has staged becomes its star schema
    "backfill",  # and how days of it are built again
    "cluster",  # what search speaks to OpenSearch through
    "queries",  # what it asks there: all bodies in one place, to be read beside each other
    "upkeep",  # rebuilds, and checks against the catalog
}
SHARED = {"contracts"}


def folders() -> set[str]:
    return {path.name for path in SHOP.iterdir() if (path / "__init__.py").exists()} - SHARED


def says(service: str) -> set[str]:
    return set(import_module(f"faultline.shop.{service}.events").SAYS)


def test_the_map_has_every_service_and_no_other() -> None:
    assert set(SERVICES) == folders()
    assert {end for edge in EDGES for end in (edge.caller, edge.callee)} <= set(SERVICES)


def test_no_two_processes_usually_want_one_port() -> None:
    ports = [port for replica in replicas() for port in (replica.port, replica.rpc_port) if port]
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_has_the_parts_that_all_have(service: str) -> None:
    parts = {path.stem for path in (SHOP / service).glob("*.py")}
    assert "app" in parts
    assert parts <= PARTS


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_its_rules_need_nothing_to_run(service: str) -> None:
    tree = ast.parse((SHOP / service / "domain.py").read_text())
    imported = {
        name.partition(".")[0] if not name.startswith("faultline") else name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names) | {"faultline.shop.contracts"}
    assert not {"asyncio", "time", "socket", "random", "os"} & imported
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


def test_what_is_said_is_declared_and_what_is_declared_is_said() -> None:
    said = {word for service in SERVICES for word in says(service)}
    assert said == set(EVENTS)
    assert all(word.split(".")[0] == service for service in SERVICES for word in says(service))


def test_every_event_that_is_heard_has_its_edge() -> None:
    drawn = {(edge.caller, edge.callee) for edge in EDGES if edge.style is Style.EVENT}
    heard = {
        (word.split(".")[0], service)
        for service in SERVICES
        for word in getattr(import_module(f"faultline.shop.{service}.events"), "HEARS", ())
    }
    assert heard == drawn


def test_the_schemas_are_those_of_the_contracts() -> None:
    written = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert written == schemas(), "write them anew: python -m faultline.shop.contracts.schema"


def test_a_hearer_of_yesterday_understands_an_event_with_more_in_it() -> None:
    event = b'{"sku": "hat", "version": 2, "reason": "worn out"}'
    assert msgspec.json.decode(event, type=EVENTS["catalog.product-retired.v1"])


@pytest.mark.once
def test_what_protoc_has_written_is_what_it_would_write_now(tmp_path: Path) -> None:
    source = SHOP.parents[1]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(source), f"--python_out={tmp_path}"]
    proto = "faultline/shop/contracts/inventory.proto"
    subprocess.run([*command, f"--grpc_python_out={tmp_path}", proto], cwd=source, check=True)
    fresh = list(tmp_path.rglob("*_pb2*.py"))
    assert len(fresh) == 2
    for path in fresh:
        assert path.read_text() == (SHOP / "contracts" / path.name).read_text(), "write it anew: docs/decisions/0016"
