"""Java, where a machine has it; what it runs comes from Maven."""

from pathlib import Path

from faultline.components.clone import Clone
from faultline.components.providers import FromPath

OLDEST = 17
JAVA = FromPath(("java",), hideouts=("/usr/lib/jvm/*/bin", "/usr/java/*/bin", "/opt/java/*/bin"), at_least=(OLDEST,))
INSTALL = f"Java {OLDEST} or newer and Maven are needed; Debian: apt install openjdk-17-jre-headless maven"

LEAN = (
    "-XX:+UseSerialGC",  # one thread and little memory: these heaps are small
    "-XX:TieredStopAtLevel=1",  # half the start time; peak speed is not what a lesson needs
    "-XX:-UsePerfData",  # else a file in /tmp outlives a killed process
    "-XX:+ExitOnOutOfMemoryError",  # or it would limp on, half alive
    "-Djava.awt.headless=true",
)
"""Options for a server of ours on a small machine."""


def heap(megabytes: int) -> tuple[str, str]:
    """Options that give it this heap, and never more."""
    return f"-Xms{megabytes}m", f"-Xmx{megabytes}m"


def home(java: Path) -> Path:
    """The Java installation that a program belongs to, as `JAVA_HOME` names it."""
    return java.resolve().parents[1]


def as_user(java: Path, clone: Clone) -> dict[str, str]:
    """What makes a Java tool use this Java, and `HOME` as any other program does.

    Java takes the home folder from the user database, where it may be missing or not be meant.
    """
    added = {"JAVA_HOME": str(home(java))}
    if folder := clone.environment.get("HOME"):
        given = clone.environment.get("JDK_JAVA_OPTIONS", "")
        added["JDK_JAVA_OPTIONS"] = f'{given} "-Duser.home={folder}"'.strip()
    return added
