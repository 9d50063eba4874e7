"""Debian packages without root: fetched once, checked, gone on with after a kill, also without package lists."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest

from faultline.components import Clone, Unavailable
from faultline.components.apt import Package, choose
from faultline.components.debian import FromDebian, locked
from faultline.components.providers import Absent, Fetchable, Program

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

HELLO = "2e6e2f1a0007dc43bc91c273fd36e91e40a4f1c2765a03eca68b70a42103878a  hello_2.10-3_amd64.deb"
MUSTACHE = "ab00ed3fa806a37de9399975ab1780786a160619eeb96abd8f9d09bfd864b22f  libjs-mustache_3.0.1-1_all.deb"
HELLO_DEBS = FromDebian("hello.debs", "usr/bin/hello", "GNU hello", trial=("usr/bin/hello",))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone with the locks that the test writes, and programs in `bin` before all others."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "clone" / "requirements" / "components").mkdir(parents=True)
    ordinary = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    return Clone(tmp_path / "clone", {**ordinary, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})


def lock(clone: Clone, *rows: str) -> None:
    (clone.locks / "hello.debs").write_text("\n".join(["# made by a test", *rows, ""]))


def wrapper(clone: Clone, name: str, script: str) -> None:
    """A program before the real one of that name, which the script knows as $REAL."""
    path = Path(clone.environment["PATH"].split(":")[0]) / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\nREAL={which(name, path=os.environ['PATH'])}\n{script}\n")
    path.chmod(0o755)


def offer(clone: Clone) -> Fetchable:
    offered = HELLO_DEBS.look(clone)
    assert isinstance(offered, Fetchable)
    return offered


def kept(clone: Clone) -> list[str]:
    return sorted(path.name for path in clone.components.iterdir() if path.is_dir())


async def test_packages_are_fetched_once_by_two_at_the_same_time_and_run(
    clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(clone, HELLO)
    first, second = await asyncio.gather(offer(clone).fetch(), offer(clone).fetch())

    assert first == second == HELLO_DEBS.look(clone)
    assert first.version() == "2.10"
    assert subprocess.run([first.path], capture_output=True, check=True).stdout == b"Hello, world!\n"  # noqa: ASYNC221
    assert capsys.readouterr().err.count("(once)...") == 1
    assert len(kept(clone)) == 1


FETCH = """
import asyncio, os, sys
from pathlib import Path
from faultline.components import Clone
from faultline.components.debian import FromDebian
provider = FromDebian("hello.debs", "usr/bin/hello", "GNU hello", trial=("usr/bin/hello",))
asyncio.run(provider.look(Clone(Path(sys.argv[1]), dict(os.environ))).fetch())
"""


def killed_at(clone: Clone, sign: Path) -> None:
    """Fetch in a process of its own that is killed when the sign appears."""
    environment = {**clone.environment, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with subprocess.Popen([sys.executable, "-c", FETCH, str(clone.root)], env=environment) as fetching:
        while not sign.exists():
            assert fetching.poll() is None, "it ended before"
            time.sleep(0.01)
        fetching.send_signal(signal.SIGKILL)
    sign.unlink()


@pytest.mark.slow
async def test_after_a_kill_only_what_is_not_there_is_downloaded(clone: Clone, tmp_path: Path) -> None:
    lock(clone, HELLO, MUSTACHE)
    sign, log = tmp_path / "sign", tmp_path / "log"
    # The first package comes, then time stands still.
    stuck = f"""
        case "$*" in *print-uris*) exec $REAL "$@" ;; esac
        for last; do :; done
        for word; do shift; [ "$word" = "$last" ] || set -- "$@" "$word"; done
        $REAL "$@" && echo >{sign} && sleep 1000"""
    wrapper(clone, "apt-get", stuck)
    await asyncio.to_thread(killed_at, clone, sign)
    assert isinstance(HELLO_DEBS.look(clone), Fetchable)

    wrapper(clone, "apt-get", f'case "$*" in *print-uris*) ;; *) echo "$@" >>{log} ;; esac; exec $REAL "$@"')
    wrapper(clone, "dpkg-deb", f"echo >{sign}; sleep 1000")
    await asyncio.to_thread(killed_at, clone, sign)
    (asked,) = log.read_text().splitlines()
    assert "libjs-mustache=" in asked
    assert "hello=" not in asked

    wrapper(clone, "dpkg-deb", 'exec $REAL "$@"')
    program = await offer(clone).fetch()
    assert log.read_text().splitlines() == [asked]
    assert (program.path.parents[1] / "share" / "javascript" / "mustache").is_dir()
    assert len(kept(clone)) == 1


@pytest.mark.slow
async def test_a_download_that_is_damaged_is_made_again(clone: Clone, tmp_path: Path) -> None:
    lock(clone, HELLO)
    sign = tmp_path / "sign"
    wrapper(clone, "dpkg-deb", f"echo >{sign}; sleep 1000")
    await asyncio.to_thread(killed_at, clone, sign)
    (package,) = clone.components.glob(".*.debs/*.deb")
    package.write_bytes(package.read_bytes()[:1000] + b"?" + package.read_bytes()[1001:])

    wrapper(clone, "dpkg-deb", 'exec $REAL "$@"')
    assert isinstance(await offer(clone).fetch(), Program)


@pytest.mark.slow
async def test_without_package_lists_they_are_fetched_into_the_clone(clone: Clone, tmp_path: Path) -> None:
    lock(clone, HELLO)
    (tmp_path / "apt.conf").write_text(f'Dir::State::lists "{tmp_path}/none/";\n')
    (tmp_path / "none" / "partial").mkdir(parents=True)
    fresh = replace(clone, environment={**clone.environment, "APT_CONFIG": str(tmp_path / "apt.conf")})

    assert isinstance(await offer(fresh).fetch(), Program)
    assert list(clone.cache.glob("apt/state/lists/*Packages*"))
    assert not list((tmp_path / "none").glob("*Packages*"))


async def test_a_package_that_is_not_the_locked_one_is_refused(clone: Clone) -> None:
    (package,) = [Package(file, sha256) for sha256, file in [HELLO.split()]]
    lock(clone, f"{'0' * 64}  {package.file}")
    with pytest.raises(Unavailable, match="another SHA-256 than the locked one"):
        await offer(clone).fetch()
    lock(clone, f"{'0' * 64}  hello_9.9-1_amd64.deb")
    with pytest.raises(Unavailable, match=r"apt has hello 2\.10-\S+, and this was tested with 9\.9-1"):
        await offer(clone).fetch()
    assert all(name.endswith(".debs") for name in kept(clone))


@pytest.mark.slow
async def test_a_program_that_does_not_run_is_not_kept(clone: Clone) -> None:
    lock(clone, HELLO)
    broken = replace(HELLO_DEBS, rewrites={"usr/bin/hello": (b"ELF", b"XXX")})
    offered = broken.look(clone)
    assert isinstance(offered, Fetchable)
    with pytest.raises((Unavailable, OSError)):
        await offered.fetch()
    with pytest.raises(Unavailable, match="as it did when this was tested"):
        await replace(HELLO_DEBS, rewrites={"usr/bin/hello": (b"no such text", b"")}).look(clone).fetch()  # type: ignore[union-attr]
    assert isinstance(HELLO_DEBS.look(clone), Fetchable)


def test_elsewhere_than_on_debian_it_says_so(clone: Clone, tmp_path: Path) -> None:
    lock(clone, HELLO)
    elsewhere = replace(clone, environment={"PATH": str(tmp_path)})
    assert HELLO_DEBS.look(elsewhere) == Absent("debian", "this is no Debian: no apt-get and no dpkg-deb on PATH")


TESTED = Package("erlang-base_1%3a25.2.3+dfsg-1+deb12u4_amd64.deb", "a" * 64)


def test_a_security_update_of_the_same_program_is_taken_and_another_program_not() -> None:
    assert TESTED.upstream == "25.2.3"
    update = Package("erlang-base_1%3a25.2.3+dfsg-1+deb12u5_amd64.deb", "b" * 64)
    elsewhere = Package("erlang-base_1%3a25.2.3+dfsg-1+deb12u4_arm64.deb", "c" * 64)
    assert choose(TESTED, update) == update
    assert choose(TESTED, elsewhere) == elsewhere
    with pytest.raises(Unavailable, match="tested with 1:25"):
        choose(TESTED, Package("erlang-base_1%3a27.3-1_amd64.deb", "d" * 64))
    with pytest.raises(Unavailable, match="another SHA-256"):
        choose(TESTED, Package(TESTED.file, "e" * 64))


def test_every_lock_names_whole_hashes_and_begins_with_its_program() -> None:
    locks = sorted(Clone.here().locks.glob("*.debs"))
    assert [path.stem for path in locks] == ["alertmanager", "libfaketime", "nftables", "prometheus", "rabbitmq"]
    for path in locks:
        packages = locked(path)
        names = path.with_suffix(".packages").read_text().split()
        assert [package.name for package in packages] == names
        assert all(len(package.sha256) == 64 for package in packages)
