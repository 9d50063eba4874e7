"""Programs that are no servers and come to this machine as servers do: found there, or fetched, checked, once."""

import platform
from collections.abc import Mapping
from dataclasses import replace

from faultline.components.clone import Clone
from faultline.components.debian import FromDebian
from faultline.components.providers import FORCE, FromPath, Given, Program, Sources

_LIBRARIES = f"/usr/lib/{platform.machine()}-linux-gnu"
_OWN_LIBRARIES = (_LIBRARIES[1:], _LIBRARIES.removeprefix("/usr/"))  # of a package, below where it was unpacked
_FAKETIME = "libfaketime.so.1"

FAKETIME = Sources(
    "libfaketime",
    (
        FromPath((_FAKETIME,), hideouts=(f"{_LIBRARIES}/faketime", "/usr/lib64/faketime", "/usr/lib/faketime")),
        FromDebian(
            "libfaketime.debs",
            f"{_LIBRARIES[1:]}/faketime/{_FAKETIME}",
            "libfaketime 0.9.10 (Debian package)",
            trial=(
                *("/bin/sh", "-c", 'test "$(LD_PRELOAD=./$0 FAKETIME="@2001-02-03 04:05:06" date +%Y)" = 2001'),
                f"{_LIBRARIES[1:]}/faketime/{_FAKETIME}",
            ),
        ),
    ),
    "Debian: apt install libfaketime",
)
"""A library that a server is started with, and that shifts its clock."""


NFT = Sources(
    "nft",
    (
        FromPath(("nft",), hideouts=("/usr/sbin",)),
        FromDebian(
            "nftables.debs",
            "usr/sbin/nft",
            "nftables 1.0.6 (Debian packages)",
            trial=("/bin/sh", "-c", f"LD_LIBRARY_PATH={':'.join(_OWN_LIBRARIES)} usr/sbin/nft --version"),
        ),
    ),
    "Debian: apt install nftables",
)
"""Tells the kernel which packets to drop."""


def libraries(program: Program) -> Mapping[str, str]:
    """What must be in the environment of an unpacked program, so that it finds the libraries that came with it."""
    if program.provider != "debian":
        return {}
    root = program.path.parents[2]
    return {"LD_LIBRARY_PATH": ":".join(str(root / folder) for folder in _OWN_LIBRARIES)}


async def tool(sources: Sources, clone: Clone) -> Program:
    """Where it is, fetched if need be; `LAB_PROVIDER` chooses servers and is not asked. Raises `Unavailable`."""
    ordinary = {name: value for name, value in clone.environment.items() if name != FORCE}
    match await sources.provide(replace(clone, environment=ordinary)):
        case Program() as program:
            return program
        case Given(provider, url):
            raise AssertionError(f"{sources.component} at {url} by {provider}: a tool is no server")
