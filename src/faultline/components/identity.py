"""Which user a server runs as: the one who started the lab, except where the server refuses root."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faultline.components.errors import Unavailable

NOBODY = 65_534
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
DROP = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",  # or access(2), by which PostgreSQL looks for its programs, forgets the capability
    "--pdeathsig=KILL",
    "--",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """How to start a program as somebody, and who owns the files that it keeps."""

    prefix: Sequence[str]
    uid: int

    def own(self, folder: Path) -> None:
        """Give the folder and all below it to this user."""
        if folder.stat().st_uid == self.uid:
            return
        for place, _, files in os.walk(folder):
            os.chown(place, self.uid, self.uid)
            for file in files:
                os.chown(Path(place, file), self.uid, self.uid, follow_symlinks=False)


def myself() -> Identity:
    """The user who runs the lab."""
    return Identity((), os.geteuid())


def anybody_but_root(environment: Mapping[str, str]) -> Identity:
    """The user who runs the lab, or for root somebody else who may still read root's folders.

    First choice is a user namespace: inside, root has another number, outside nothing changes. Where the system
    forbids namespaces (many containers), it is `nobody` with the one capability to pass by file permissions.
    """
    if os.geteuid() != 0:
        return myself()
    for prefix, uid in ((NAMESPACE, 0), (DROP, NOBODY)):
        if _works(prefix, environment):
            return Identity(prefix, uid)
    raise Unavailable(
        "it refuses to run as root, and neither `unshare --user` nor `setpriv` (both in util-linux) works here; "
        "run ./lab as an ordinary user"
    )


def _works(prefix: Sequence[str], environment: Mapping[str, str]) -> bool:
    path = environment.get("PATH")
    if not shutil.which(prefix[0], path=path):
        return False
    trial = subprocess.run([*prefix, "true"], env=environment, capture_output=True, check=False)
    return trial.returncode == 0
