"""Debian packages, unpacked without root into the clone: nothing is installed, no service is started.

`requirements/components/NAME.debs` holds the tested packages; decision 0006 says which others are taken, too.
"""

import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from faultline.components.apt import Apt, Package
from faultline.components.clone import Clone
from faultline.components.errors import Unavailable
from faultline.components.fetching import once
from faultline.components.processes import run
from faultline.components.providers import Absent, Fetchable, Offer, Program

TOOLS = ("apt-get", "dpkg-deb")
# In a program that looks for its files there: below the folder that it is started in. `see_share` puts them there.
SHARE = (b"/usr/share/prometheus", b"usr//share/prometheus")


@dataclass(frozen=True, slots=True)
class FromDebian:
    """Packages that apt fetches and checks, unpacked; the first of the lock is the one the others are for."""

    lock: str
    program: str
    what: str
    trial: Sequence[str]
    """A command that ends with 0 where the unpacked programs run; its first word lies among them."""
    rewrites: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict[str, tuple[bytes, bytes]])
    """Files that name the place where they would be installed; what to replace by what, in programs as long."""
    without: Sequence[str] = ()
    """Folders that nobody needs."""
    name: str = "debian"

    def look(self, clone: Clone) -> Offer:
        """The program where it was unpacked, else the offer to fetch it."""
        lock = clone.locks / self.lock
        if not lock.exists():
            return Absent(self.name, f"{lock} is missing; restore it with git")
        packages = locked(lock)
        key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
        target = clone.components / f"{lock.stem}-{key}"
        program = Program(self.name, target / self.program, told=packages[0].upstream)
        if program.path.exists():
            return program
        if missing := [tool for tool in TOOLS if not which(tool, path=clone.environment.get("PATH"))]:
            return Absent(self.name, f"this is no Debian: no {' and no '.join(missing)} on PATH")

        async def fetch() -> Program:
            await once(target, lambda draft: self._fill(draft, packages, target, clone))
            shutil.rmtree(_downloads(target), ignore_errors=True)
            return program

        return Fetchable(self.name, self.what, fetch)

    async def _fill(self, draft: Path, packages: Sequence[Package], target: Path, clone: Clone) -> None:
        print(f"fetching {self.what} (once)...", file=sys.stderr, flush=True)
        downloads = _downloads(target)  # kept when interrupted, so that the next try goes on from there
        downloads.mkdir(mode=0o700, exist_ok=True)
        for number, deb in enumerate(files := await Apt(clone).bring(packages, downloads), 1):
            print(f"  unpacking {number}/{len(files)} {deb.name}", file=sys.stderr, flush=True)
            code, said = await run(
                ["dpkg-deb", "-x", str(deb), str(draft)], folder=draft, environment=clone.environment
            )
            if code:
                raise Unavailable(f"{deb} cannot be unpacked: dpkg-deb ended with {code}: {said}")
        for folder in self.without:
            shutil.rmtree(draft / folder, ignore_errors=True)
        for name, (old, new) in self.rewrites.items():
            content = (draft / name).read_bytes()
            if old not in content:
                raise Unavailable(f"{name} of {self.what} does not name {old!r} as it did when this was tested")
            (draft / name).write_bytes(content.replace(old, new))
        tool, *arguments = self.trial
        code, said = await run([str(draft / tool), *arguments], folder=draft, environment=clone.environment)
        if code:
            raise Unavailable(f"{self.what} was fetched but does not run on this machine: {said}")
        print(f"fetched {self.what}", file=sys.stderr, flush=True)


def locked(lock: Path) -> list[Package]:
    """The packages of a lock, which is what `sha256sum` prints for their files."""
    rows = [row.split() for row in lock.read_text().splitlines() if row and not row.startswith("#")]
    return [Package(file, sha256) for sha256, file in rows]


def see_share(program: Program, folder: Path) -> None:
    """Let an unpacked program that is started in `folder` see its files; see `SHARE`."""
    link = folder / "usr"
    link.unlink(missing_ok=True)
    link.symlink_to(program.path.parents[1])


def _downloads(target: Path) -> Path:
    return target.with_name(f".{target.name}.debs")
