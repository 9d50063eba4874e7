"""apt as an ordinary user: the machine's own sources and keys, its package lists or fresh ones of ours.

What is brought was promised by lists whose signature apt has checked, or apt refuses it.
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from faultline.components.clone import Clone
from faultline.components.errors import Unavailable
from faultline.components.processes import run

# A line of `apt-get download --print-uris`; the hash comes from lists whose signature apt has checked.
_OFFER = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")
_CONFIGURATION = """
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{folder}/state/";
Dir::State::lists "{folder}/state/lists/";
Dir::Cache "{folder}/cache/";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"""
_ALWAYS = (
    *("-o", "APT::Sandbox::User=root"),  # for root: its folders are closed to apt's own user; for others nothing
    *("-o", "APT::Get::AllowUnauthenticated=false"),
    *("-o", "Acquire::AllowInsecureRepositories=false"),
    *("-o", "Acquire::Retries=3"),
)
_TO_STDERR = ("sh", "-c", 'exec "$@" >&2', "sh")  # stdout is for what the lab was asked


@dataclass(frozen=True, slots=True)
class Package:
    """One package file, named as apt names it: `NAME_VERSION_ARCHITECTURE.deb`."""

    file: str
    sha256: str
    size: int = 0

    @property
    def name(self) -> str:
        """What `apt-get download` is asked for."""
        return self.file.split("_")[0]

    @property
    def version(self) -> str:
        """As Debian counts."""
        return unquote(self.file.split("_")[1])

    @property
    def upstream(self) -> str:
        """The version of the program, without what Debian adds: epoch, `+dfsg`, revision."""
        return re.sub(r"^\d+:|[-+].*", "", self.version)

    def in_(self, folder: Path) -> bool:
        """Whether that folder holds the file, whole."""
        path = folder / self.file
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256


class AptFailed(Unavailable):
    """It may be that fresh package lists help."""


class Apt:
    """What this machine's apt can bring."""

    def __init__(self, clone: Clone) -> None:
        self._clone = clone
        self._folder = clone.cache / "apt"

    async def bring(self, tested: Sequence[Package], folder: Path) -> list[Path]:
        """Download into `folder` what is not there yet; the files, in order. Raises `Unavailable`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return await self._bring(tested, folder, ())
        except AptFailed:  # no lists, as in a fresh container, or lists older than the mirror
            return await self._bring(tested, folder, await self._lists_of_ours())

    async def _bring(self, tested: Sequence[Package], folder: Path, options: Sequence[str]) -> list[Path]:
        offered = await self._offered([package.name for package in tested], options)
        wanted = [choose(package, offered.get(package.name)) for package in tested]
        if missing := [package for package in wanted if not package.in_(folder)]:
            size = sum(package.size for package in missing) / 1e6
            print(f"  downloading {len(missing)} of {len(wanted)} packages, {size:.0f} MB", file=sys.stderr, flush=True)
            for package in missing:
                (folder / package.file).unlink(missing_ok=True)
            names = [f"{package.name}={package.version}" for package in missing]
            await self._apt(["download", *names], options, folder, shown=sys.stderr.isatty())
        for package in wanted:
            if not package.in_(folder):
                raise AptFailed(f"{folder / package.file} is not what apt's signed lists promise; try again later")
        return [folder / package.file for package in wanted]

    async def _offered(self, names: Sequence[str], options: Sequence[str]) -> dict[str, Package]:
        said = await self._apt(["download", "--print-uris", *names], options, self._folder)  # thirty lines at most
        found = [Package(row["file"], row["sha256"], int(row["size"])) for row in _OFFER.finditer(said)]
        return {package.name: package for package in found}

    async def _lists_of_ours(self) -> Sequence[str]:
        """Fresh package lists in a folder of ours, from the machine's sources; the options that make apt use them."""
        for needed in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / needed).mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "apt.conf"
        configuration.write_text(_CONFIGURATION.format(folder=self._folder))
        options = ("-c", str(configuration))
        print("  fetching package lists (the machine's are missing or old)", file=sys.stderr, flush=True)
        try:
            await self._apt(["update"], options, self._folder, shown=sys.stderr.isatty())
        except AptFailed as error:  # one of several sources may be out of reach: what matters is what is offered
            print(f"  {error}", file=sys.stderr, flush=True)
        return options

    async def _apt(self, words: Sequence[str], options: Sequence[str], folder: Path, *, shown: bool = False) -> str:
        argv = [*(_TO_STDERR if shown else ()), "apt-get", *options, *_ALWAYS, *words]
        environment = {**self._clone.environment, "LC_ALL": "C.UTF-8"}
        code, said = await run(argv, folder=folder, environment=environment, shown=shown)
        if code:
            raise AptFailed(f"apt-get {words[0]} ended with {code}: {said or 'its reason is above'}")
        return said


def choose(tested: Package, offered: Package | None) -> Package:
    """The offered package if it may stand for the tested one; raises `Unavailable`.

    A later revision of the same program is a security update: Debian takes the older one off its mirrors.
    """
    if offered is None:
        raise AptFailed(f"apt knows no package {tested.name}; are there sources in /etc/apt?")
    if offered.upstream != tested.upstream:
        raise Unavailable(
            f"apt has {tested.name} {offered.version}, and this was tested with {tested.version} of Debian 12; "
            "install it yourself to use it all the same"
        )
    if offered.file == tested.file and offered.sha256 != tested.sha256:
        raise Unavailable(f"apt offers a {tested.file} with another SHA-256 than the locked one; who made it?")
    return offered
