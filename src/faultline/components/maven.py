"""Jars from Maven's central repository, fetched by the ordinary client and checked one by one.

`requirements/components/NAME.jars` lists them, one a line: `group:artifact:version[:type[:classifier]]`, its SHA-256,
its size in bytes. `requirements/lock.sh` makes it, from `NAME.maven`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from xml.sax.saxutils import escape

from rich.filesize import decimal

from faultline.components import java
from faultline.components.clone import Clone
from faultline.components.errors import Unavailable
from faultline.components.fetching import announced, failed, once
from faultline.components.processes import run
from faultline.components.providers import Absent, Fetchable, Offer, Program, key_of

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>faultline</groupId><artifactId>fetch</artifactId><version>1</version><packaging>pom</packaging>
<build><plugins><plugin>
<groupId>{0}</groupId><artifactId>{1}</artifactId><version>{2}</version>
<configuration><artifactItems>
{items}
</artifactItems></configuration>
</plugin></plugins></build>
</project>
"""


@dataclass(frozen=True, slots=True)
class Jar:
    """One file, as it must be."""

    coordinates: str
    sha256: str
    size: int
    """Bytes."""

    @property
    def parts(self) -> dict[str, str]:
        """The coordinates by the names that Maven has for them."""
        names = ("groupId", "artifactId", "version", "type", "classifier")
        return {"type": "jar"} | dict(zip(names, self.coordinates.split(":"), strict=False))

    @property
    def file(self) -> str:
        """What it is called in the repository, and here."""
        parts = self.parts
        classifier = f"-{parts['classifier']}" if "classifier" in parts else ""
        return f"{parts['artifactId']}-{parts['version']}{classifier}.{parts['type']}"

    @property
    def place(self) -> str:
        """The folder in which a repository, or Maven's cache, keeps it."""
        parts = self.parts
        return f"{parts['groupId'].replace('.', '/')}/{parts['artifactId']}/{parts['version']}"


@dataclass(frozen=True, slots=True)
class FromMaven:
    """Jars that a Java of this machine runs. The program is that Java; `Program.folder` holds the jars."""

    lock: str
    what: str
    name: str = "maven"

    def look(self, clone: Clone) -> Offer:
        """The jars where they were fetched, else the offer to fetch them; needs Java either way, Maven only then."""
        lock = clone.locks / self.lock
        if not lock.exists():
            return Absent(self.name, f"{lock} is missing; restore it with git")
        found = java.JAVA.look(clone)
        if isinstance(found, Absent):
            return Absent(self.name, found.reason)
        jars = read(lock)
        target = clone.components / f"{lock.stem}-{key_of(lock)}"
        program = Program(self.name, found.path, folder=target, told=jars[0].parts["version"])
        if target.is_dir():
            return program
        mvn = which("mvn", path=clone.environment.get("PATH"))
        if mvn is None:
            return Absent(self.name, f"no mvn in PATH, which fetches {self.what}")

        async def fetch() -> Program:
            await once(target, lambda draft: self._fill(draft, mvn, jars, clone, java.as_user(found.path, clone)))
            return program

        return Fetchable(self.name, self.what, fetch)

    async def _fill(
        self, draft: Path, mvn: str, jars: Sequence[Jar], clone: Clone, environment: Mapping[str, str]
    ) -> None:
        project, log = draft / "pom.xml", draft / "log"
        project.write_text(pom(jars))
        options = ["--strict-checksums", "--batch-mode", "-l", str(log), "-f", str(project)]
        async with announced(self.what, far=lambda: far(log, jars)):
            code, said = await run(
                [mvn, *options, f"{PLUGIN}:copy", f"-DoutputDirectory={draft}"],
                folder=draft,
                environment={**clone.environment, **environment},
            )
            if code:
                raise failed(self.what, "mvn", reason(log) or said)
            for jar in jars:
                check(draft / jar.file, jar)
        project.unlink()
        log.unlink()


def read(lock: Path) -> list[Jar]:
    """What a lock lists."""
    rows = (line.split() for line in lock.read_text().splitlines() if line and not line.startswith("#"))
    return [Jar(coordinates, sha256.removeprefix("sha256:"), int(size)) for coordinates, sha256, size in rows]


def pom(jars: Sequence[Jar]) -> str:
    """What tells Maven to copy exactly these, without looking for what they depend on."""
    items = "\n".join(
        "<artifactItem>"
        + "".join(f"<{name}>{escape(value)}</{name}>" for name, value in jar.parts.items())
        + f"<destFileName>{escape(jar.file)}</destFileName></artifactItem>"
        for jar in jars
    )
    return POM.format(*PLUGIN.split(":"), items=items)


def check(file: Path, jar: Jar) -> None:
    """Raise `Unavailable` unless the file is the one that the lock means."""
    with file.open("rb") as content:
        seen = hashlib.file_digest(content, "sha256").hexdigest()
    if seen != jar.sha256:
        raise Unavailable(
            f"{jar.file} has SHA-256 {seen}, and the lock says {jar.sha256}; if it was damaged, remove it from "
            f"Maven's cache (usually ~/.m2/repository/{jar.place}) and run the same command again"
        )


def far(log: Path, jars: Sequence[Jar]) -> str:
    """How far Maven is, by its log: it goes through the list one by one."""
    reached = log.read_text(errors="replace").count("Configured Artifact: ") if log.exists() else 0
    if not reached:
        return "Maven gets ready"
    done = sum(jar.size for jar in jars[: reached - 1])
    return f"file {reached} of {len(jars)}, {decimal(done)} of {decimal(sum(jar.size for jar in jars))}"


def reason(log: Path) -> str:
    """Why Maven gave up, in its words."""
    if not log.exists():
        return ""
    said = re.findall(r"^\[ERROR\] (.+)$", log.read_text(errors="replace"), re.MULTILINE)
    return said[0].split(" -> [Help")[0] if said else ""
