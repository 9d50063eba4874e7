"""Sessions on the server, with two clocks, a secret that is not kept, and a way to end all of a user's at once.

    store = SessionStore(client, idle_ttl=1800, absolute_ttl=86_400)
    session = await store.create("ann", device="phone")      # session.id is the cookie
    session = await store.load(cookie)                       # None: log in
    session = await store.rotate(cookie)                     # after a login, or any change of rights
    await store.revoke_all("ann")                            # the password has changed

**Promise.** A session ends when it was idle for `idle_ttl`, and `absolute_ttl` after it was created at the latest, by
the server's clock. An id is 256 bits of the operating system's chance behind a public handle; kept is only a digest,
so who has read all of Redis can log in with none of it. Every call is one atomic step: no update of another field is
lost, a rotated id is dead at once, nothing that has ended comes back, and nothing that existed before a `revoke_all`
is out of its reach. Whatever is no id is refused without asking the server.

**Not promised.** That the cookie is safe in the browser: set `Secure`, `HttpOnly` and `SameSite`. That whoever hands in
a handle may revoke it: look for it in the `list` of the user who asks. That two updates of the same field do not
overwrite each other: a field that is counted up belongs into a key of its own.

**Cost.** One round trip for each call, by digest (`EVALSHA`). `load`, `update`, `rotate`, `revoke`: O(fields) on the
server. `create`, `list`, `revoke_all`: O(sessions of the user), which nothing here limits. One hash for each session
and one set for each user; both expire by themselves.

**When something fails**

- What the client raises is the caller's: without an answer nobody is logged in and nobody is logged out. `load`,
  `update`, `list` and the two that revoke may be repeated. A `rotate` without an answer may have made the old id
  worthless and the new one unknown, and a `create` may have left a session that nobody has the id of: log in again.
- Server killed: sessions are there again as far as its append-only file goes; with `everysec` the last second of
  logins, uses and of *revocations* may be undone. So may they be by a fail-over to an asynchronous replica.
- Server's clock set ahead: sessions end early. Set back: they live longer, also than `absolute_ttl`.
- Eviction (`maxmemory-policy allkeys-…`) may forget an index, and its sessions are then out of reach of `revoke_all`:
  use `noeviction`, or `volatile-ttl` knowingly.
- Cluster: the scripts name keys that they do not declare; one server only.

Sources: *Session Management Cheat Sheet* (OWASP); Arciszewski, *Split Tokens* (2017), for an id of a public and a
secret part; RFC 6265 for what a cookie may hold.
"""

from __future__ import annotations

import builtins
import hashlib
import math
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faultline.patterns.session_scripts import CREATE, LIST, LOAD, REVOKE, REVOKE_ALL, ROTATE, UPDATE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio import Redis

    from faultline.patterns.script import Script

__all__ = ["Session", "SessionStore"]

HANDLE_BYTES, SECRET_BYTES = 12, 32
HANDLE = re.compile(r"[A-Za-z0-9_-]{16}")
ID = re.compile(r"([A-Za-z0-9_-]{16})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it was when it was asked for."""

    handle: str
    """Its public name, which stays when it is rotated; it revokes the session and opens nothing."""
    user_id: str
    fields: dict[str, str]
    ends_in: float
    """Seconds until it ends if nobody uses it again."""
    id: str = field(repr=False)
    """The secret; "" in what `list` gives. Not in its text, which ends up in logs."""


class SessionStore:
    """The sessions of all users on one server; any number of stores and processes may share it.

    The client is the caller's: with `decode_responses` or without.
    """

    def __init__(self, redis: Redis, idle_ttl: float, absolute_ttl: float, *, prefix: str = "session") -> None:
        """Check the arguments; talk to no server yet.

        `idle_ttl`, `absolute_ttl`: seconds, to the millisecond; either may be the shorter one. `prefix`: what all its
        keys begin with, before a colon. Raises `ValueError` for a ttl under 0.001, or an empty prefix.
        """
        if not (0.001 <= idle_ttl < math.inf and 0.001 <= absolute_ttl < math.inf):
            raise ValueError(f"idle_ttl {idle_ttl} s, absolute_ttl {absolute_ttl} s: each is 0.001 s or more")
        if not prefix:
            raise ValueError("the keys of sessions need a prefix: other things lie on the server, too")
        self._redis = redis
        self._idle = round(idle_ttl * 1000)
        self._absolute = round(absolute_ttl * 1000)
        self._one, self._of = f"{prefix}:one:", f"{prefix}:of:"

    async def create(self, user_id: str, /, **fields: str) -> Session:
        """A new session with these fields; each is text under any name. Raises `ValueError` for no user, or no text."""
        index = self._index(user_id)
        _require_text(fields)
        written = [word for name, value in fields.items() for word in (f".{name}", value)]
        handle, secret = secrets.token_urlsafe(HANDLE_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        who = (self._one, handle, user_id, _digest(secret))
        await CREATE.run(self._redis, (self._one + handle, index), *who, self._idle, self._absolute, *written)
        return Session(handle, user_id, fields, min(self._idle, self._absolute) / 1000, f"{handle}.{secret}")

    async def load(self, session_id: str) -> Session | None:
        """The session, which is used by that; None for any text that is the id of none."""
        return await self._use(LOAD, session_id)

    async def update(self, session_id: str, /, **fields: str | None) -> bool:
        """Set these fields, take away those that are None, and leave the others; False if there is no such session.

        A use, also without fields. Raises `ValueError` and changes nothing for a value that is neither text nor None.
        """
        _require_text({name: value for name, value in fields.items() if value is not None})
        changes: list[str] = []
        for name, value in fields.items():
            changes += (f".{name}", "" if value is None else f"={value}")
        found = ID.fullmatch(session_id)
        if not found:
            return False
        key, digest = self._one + found[1], _digest(found[2])
        return await UPDATE.run(self._redis, (key,), digest, self._idle, *changes) is not None

    async def rotate(self, session_id: str) -> Session | None:
        """The same session under a new id, in one step; None if there is no such session.

        User, handle, fields and absolute end stay. Of two that rotate the same id one gets the session.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        return await self._use(ROTATE, session_id, secret)

    async def revoke(self, session_id: str) -> bool:
        """End a session, given by its id or by its handle; False if there is none."""
        if found := ID.fullmatch(session_id):
            handle, digest = found[1], _digest(found[2])
        elif HANDLE.fullmatch(session_id):
            handle, digest = session_id, ""
        else:
            return False
        return bool(await REVOKE.run(self._redis, (self._one + handle,), self._of, handle, digest))

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions that the user has at the moment at which the server gets to it, and say how many."""
        return int(await REVOKE_ALL.run(self._redis, (self._index(user_id),), self._one))

    async def list(self, user_id: str) -> builtins.list[Session]:
        """The user's sessions, in any order, without ids; looking at them is no use of them."""
        found = await LIST.run(self._redis, (self._index(user_id),), self._one)
        return [_session(_word(handle), left, flat, "") for handle, left, flat in found]

    async def _use(self, script: Script, session_id: str, new_secret: str = "") -> Session | None:
        found = ID.fullmatch(session_id)
        if not found:
            return None
        handle, secret = found[1], found[2]
        digests = [_digest(secret), str(self._idle), *([_digest(new_secret)] if new_secret else [])]
        answer = await script.run(self._redis, (self._one + handle,), *digests)
        if answer is None:
            return None
        left, flat = answer
        return _session(handle, left, flat, f"{handle}.{new_secret or secret}")

    def _index(self, user_id: str) -> str:
        if not user_id:
            raise ValueError("a session needs a user: the id of an account, or of a guest")
        return self._of + user_id


def _require_text(fields: Mapping[str, object]) -> None:
    others = sorted(name for name, value in fields.items() if not isinstance(value, str))
    if others:
        raise ValueError(f"{', '.join(others)}: a field is text; turn it into text, and back, yourself")


def _digest(secret: str) -> str:
    """Enough without a salt and a slow function, since nobody guesses 256 bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _word(word: bytes | str) -> str:
    return word.decode() if isinstance(word, bytes) else word


def _session(handle: str, left: int, flat: Sequence[bytes | str], session_id: str) -> Session:
    words = [_word(word) for word in flat]
    kept = dict(zip(words[::2], words[1::2], strict=True))
    fields = {name[1:]: value for name, value in kept.items() if name.startswith(".")}
    return Session(handle, kept["user"], fields, left / 1000, session_id)
