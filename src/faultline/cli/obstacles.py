"""What of this machine is in the way when the system refuses something: a sentence, with what to do about it."""

import errno
import os

_ROOM = "make room (./lab clean shows what can go)"
_OWNER = "see who owns it (ls -ld); an earlier command as root? sudo chown -R $USER .lab .venv workspace"
_TO_DO = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "make it writable, or move the clone to where you may write",
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.ENOTDIR: "a file lies where a folder belongs; move it away",
    errno.EEXIST: "something lies where a folder belongs, or a link that leads nowhere; move it away",
    errno.EISDIR: "a folder lies where a file belongs; move it away",
    errno.ELOOP: "a link leads back to itself; remove it",
    errno.ENAMETOOLONG: "move the clone to a shorter path",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENFILE: "close some programs",
    errno.ENOMEM: "close some programs",
    errno.EAGAIN: "end some processes, or allow more: ulimit -u",
    errno.EIO: "check the disk",
}


def explain(error: OSError) -> str | None:
    """What was refused, why, and what to do; None when it is no fault of the machine's, so probably a bug."""
    to_do = _TO_DO.get(error.errno or 0)
    if to_do is None:
        return None
    reason = os.strerror(error.errno or 0)
    place = error.filename2 or error.filename
    where = os.fsdecode(place) if isinstance(place, str | bytes) else place
    return f"{where}: {reason}; {to_do}, then try again" if where else f"{reason}; {to_do}, then try again"
