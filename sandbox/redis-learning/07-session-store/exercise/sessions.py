"""Sessions in Redis: who is logged in, until when, and out everywhere at once.

A login gives the browser a secret, the id, which it sends as a cookie with every request. Whoever shows it is that
user, until the session has been idle for too long, is too old, or is revoked. The shop runs in many processes, and one
page makes a dozen requests at the same time.

`Session` is complete; fill in `SessionStore`. Use redis-py and the standard library; add what you need around it. The
checks use only what stands here.

The server
    One Redis 7 or Valkey 8, no cluster. Others use it, too: every key of yours starts with `session:`.
The client
    A `redis.asyncio.Redis` with `decode_responses=False` and redis-py's usual pool, made and closed by the caller and
    shared by several stores. It does not retry. What it raises (a dead server) reaches the caller as it is: without an
    answer nobody is logged in, and nobody is logged out.
The id
    1 to 200 letters, digits, `-`, `_`, `.` and `~`, so that it can stand in a cookie. At least 128 bits of it are drawn
    by chance, anew in every `create` and `rotate`, from the operating system's source: `secrets`, `os.urandom` and
    `random.SystemRandom` draw from it, the other functions of `random` do not, and of a `uuid4` it is 122 bits. The
    handle gives none of them away.
The handle
    The public name of a session, of the same letters. It may stand on a page or in a log. It stays the same when the
    session is rotated. It is no id: `load`, `update` and `rotate` do not know it.
A stolen copy
    Whoever has read everything in Redis can log in with none of it: there is no id in it, also not in other letters,
    and nothing from which one could be put together.
The ends
    A session ends when it was not used for `idle_ttl`, and it ends `absolute_ttl` after it was created, however much
    it is used. Using it is a `load`, an `update` or a `rotate` that finds it. `list` and `revoke` are no use. An ended
    session never comes back.
    The clocks of the processes disagree by minutes: the server's is the one that counts. Durations are `float`
    seconds, exact to about 5 milliseconds.
    Stores with other ttls may share the server, as while a new version is rolled out: a session keeps the absolute end
    that it was created with, and each use gives it the `idle_ttl` of the store that it was used through.
Many at once
    Calls at the same time, from any number of processes, count as if one had come after the other.
Cost
    `load` costs one round trip. `create`, `update`, `rotate` and `revoke` cost four at most, if nobody else is at the
    same session or user. `list` and `revoke_all` cost at most one for each session of the user and four besides. What
    a connection says at its beginning does not count, nor does the first call of each kind (which may have to bring a
    script to the server). Nothing looks through all keys (`KEYS`, `SCAN`).
What is kept
    Every key expires by itself, at most one second after the longest of the ttls in use has gone by without another
    call. A user's next `create` leaves nothing of sessions of theirs that have expired.
"""

import builtins
from dataclasses import dataclass, field

from redis.asyncio import Redis


@dataclass(frozen=True)
class Session:
    """A session as it was when it was asked for."""

    handle: str
    user_id: str
    fields: dict[str, str]
    ends_in: float
    """Seconds until it ends if nobody uses it again."""
    id: str = field(repr=False)
    """The secret; "" in what `list` gives. Not in the session's `repr`, which ends up in logs."""


class SessionStore:
    """The sessions of all users on that server. A user's id and the names of fields are text that UTF-8 can encode.

    A user has 1,000 sessions at most at the same time; nobody has to look.
    """

    def __init__(self, redis: Redis, idle_ttl: float, absolute_ttl: float) -> None:
        """Talk to no server yet.

        Either ttl may be the shorter one. Raises `ValueError` for one that is under 0.001 seconds.
        """
        raise NotImplementedError

    async def create(self, user_id: str) -> Session:
        """A new session, without fields. Raises `ValueError` for the empty text."""
        raise NotImplementedError

    async def load(self, session_id: str) -> Session | None:
        """The session, which is used by that.

        None if this is the id of none: it has ended, it was rotated away, or it is any other text.
        """
        raise NotImplementedError

    async def update(self, session_id: str, /, **fields: str | None) -> bool:
        """Set these fields and leave the others; None takes a field away. False if there is no such session.

        The names mean nothing to the store: a field may be called `user_id`, `session_id` or whatever else. The empty
        text is a value. Without fields the session is only used. Raises `ValueError` and changes nothing for a value
        that is neither text nor None.
        """
        raise NotImplementedError

    async def rotate(self, session_id: str) -> Session | None:
        """The same session under a new id, or None if there is no such session.

        User, handle, fields and absolute end stay. It is one step: at any moment one of the two ids is the session's,
        and the other is not. So an update by the old id has either come before, and is in what is rotated, or is
        False; of two that rotate the same id one gets the session and the other None.
        """
        raise NotImplementedError

    async def revoke(self, session_id: str) -> bool:
        """End a session, given by its id or by its handle. False if there is none (an id that was rotated away)."""
        raise NotImplementedError

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions of the user, and say how many. Raises `ValueError` for the empty text.

        It has one moment, after its first request has reached the server and before it answers: what exists at that
        moment is ended, whatever else is being done with it, rotating included. What is created later stays: `list`
        shows it, and the next `revoke_all` ends it.
        """
        raise NotImplementedError

    async def list(self, user_id: str) -> builtins.list[Session]:
        """The user's sessions, in any order, without ids. Raises `ValueError` for the empty text.

        It shows each that existed all the time, and none that had ended before.
        """
        raise NotImplementedError
