"""Locks requirements/components/*.maven: every jar, also those that others need, with SHA-256 and size.

Called by lock.sh. A line of the source is `group:artifact:version[:type[:classifier]]`; with ` alone` behind it, what
it depends on is left out (it has that inside).
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from faultline.components.maven import PLUGIN, Jar

HERE = Path(__file__).parent / "components"
ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
PROJECT = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>faultline</groupId><artifactId>lock</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>{}</dependencies></project>
"""


def lock(source: Path) -> None:
    """Write the lock beside its source: what the source names first, in its order."""
    lines = [line for line in source.read_text().splitlines() if line and not line.startswith("#")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pom.xml").write_text(PROJECT.format("".join(map(dependency, lines))))
        mvn = ["mvn", "-B", "-q", "-f", str(folder / "pom.xml"), "--strict-checksums"]
        jars = ["-DincludeScope=runtime", f"-DoutputDirectory={folder / 'jars'}"]
        subprocess.run([*mvn, f"{PLUGIN}:copy-dependencies", *jars], check=True)
        listed = ["-DincludeScope=runtime", f"-DoutputFile={folder / 'list'}"]
        subprocess.run([*mvn, f"{PLUGIN}:list", *listed], check=True)
        named = [Jar(line.split()[0], "", 0).file for line in lines]
        found = [measured(coordinates, folder / "jars") for coordinates in resolved((folder / "list").read_text())]
    found.sort(key=lambda jar: (named.index(jar.file) if jar.file in named else len(named), jar.coordinates))
    if len({jar.file for jar in found}) < len(found) or len(found) < len(named):
        sys.exit(f"{source}: two of its jars have one name, or one is missing")
    rows = [f"{jar.coordinates} sha256:{jar.sha256} {jar.size}" for jar in found]
    head = f"# Made by requirements/lock.sh from {source.name}: coordinates, SHA-256, bytes."
    source.with_suffix(".jars").write_text("\n".join([head, *rows]) + "\n")


def dependency(line: str) -> str:
    """A line of the source as Maven wants it."""
    coordinates, *alone = line.split()
    parts = "".join(f"<{name}>{value}</{name}>" for name, value in Jar(coordinates, "", 0).parts.items())
    return f"<dependency>{parts}{ALONE if alone == ['alone'] else ''}</dependency>"


def resolved(listing: str) -> list[str]:
    """The coordinates in what Maven lists as group:artifact:type[:classifier]:version:scope."""
    found = list[str]()
    for line in re.findall(r"^ +(\S+:\S+)", listing, re.MULTILINE):
        group, artifact, kind, *classifier, version, _ = line.split(":")
        found.append(
            ":".join([group, artifact, version, *([kind] if kind != "jar" or classifier else []), *classifier])
        )
    return found


def measured(coordinates: str, folder: Path) -> Jar:
    """The jar with its hash and size."""
    content = (folder / Jar(coordinates, "", 0).file).read_bytes()
    return Jar(coordinates, hashlib.sha256(content).hexdigest(), len(content))


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.maven")):
        lock(path)
