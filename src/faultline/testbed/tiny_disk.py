"""A disk of a few megabytes that the check fills: the writer gets a true ENOSPC from the kernel, and room again.

It is a tmpfs in a mount namespace of its own, kept by a small process; the path leads through that process
(`/proc/PID/root/…`), so a server or a learner's process uses it like any folder and needs no namespace itself. It
needs no root, only user namespaces. The disk is gone with the check, also when that is killed.

PostgreSQL under root cannot have it: there it runs in a user namespace, from which that path is closed.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from faultline.testbed.errors import TestbedError
from faultline.testbed.history import History

_READY_WITHIN = 10.0  # seconds
_PAGE = os.sysconf("SC_PAGE_SIZE")
_KEEP = 'mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$2" && echo ready && exec cat'  # until its input ends
_NAMESPACES = (("--user", "--map-root-user", "--mount"), ("--mount",))  # the second is root's, where the first is not


class TinyDisk:
    """`folder` is on it; made by `Testbed.tiny_disk`."""

    def __init__(self, folder: Path, history: History) -> None:
        self.folder = folder
        self._history = history
        self._ballast = folder / ".ballast"
        self._used_up = False

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        of = os.statvfs(self.folder)
        return of.f_bavail * of.f_frsize

    @property
    def was_full(self) -> bool:
        """Whether somebody has used up what `fill` had left, so that whoever writes more is refused."""
        self._used_up = self._used_up or (self._ballast.exists() and not self.free)
        return self._used_up

    def fill(self, *, leave: int = 2 * _PAGE) -> None:
        """Take all of it except `leave` bytes (whole pages, at least one): the next who writes more gets ENOSPC."""
        pages = max(1, leave // _PAGE)
        with self._ballast.open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, self.free - pages * _PAGE)
        self._history.note("disk", f"full up to {pages * _PAGE // 1024} KiB")

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self._used_up = self.was_full
        self._ballast.unlink()
        self._history.note("disk", f"{self.free // 1024} KiB are free again")


@asynccontextmanager
async def tiny_disk(mount_point: Path, megabytes: int, history: History) -> AsyncIterator[TinyDisk]:
    """A disk of this size that is there during the block; `TestbedError` where the system allows no namespace."""
    mount_point.mkdir()  # noqa: ASYNC240 -- no waiting in it
    said = ""
    for namespace in _NAMESPACES:
        keep = ("sh", "-c", _KEEP, "sh", f"{megabytes}m", str(mount_point))
        keeper = await asyncio.create_subprocess_exec(
            "unshare", *namespace, "--", *keep,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert keeper.stdout
        try:
            said = (await asyncio.wait_for(keeper.stdout.readline(), _READY_WITHIN)).decode().strip()
            if said == "ready":
                yield TinyDisk(Path(f"/proc/{keeper.pid}/root{mount_point}"), history)
                return
        finally:
            if keeper.returncode is None:
                keeper.kill()
            await keeper.communicate()
    raise TestbedError(
        f"no tiny disk: `unshare --user --mount` does not work here ({said}); "
        "allow user namespaces (sysctl user.max_user_namespaces), or run where they are"
    )
