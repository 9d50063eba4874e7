"""Sessions in Redis: a hash for each, found by its handle and opened by a secret of which only the digest is kept."""

import builtins
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

# An id is handle.secret: the handle finds the session, the secret opens it. A rotation changes nothing but the secret.
FIND = """
local kept = redis.call('HMGET', KEYS[1], 'secret', 'end')
if kept[1] ~= ARGV[1] then
    return nil
end
"""
USE = """
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIREAT', KEYS[1], kept[2], 'LT')
"""
# Read before the expiry is set: a session that ends right now is deleted by that.
LOAD = f"""{FIND}
local all = redis.call('HGETALL', KEYS[1])
{USE}
return {{redis.call('PTTL', KEYS[1]), all}}
"""
ROTATE = f"""{FIND}
redis.call('HSET', KEYS[1], 'secret', ARGV[3])
local all = redis.call('HGETALL', KEYS[1])
{USE}
return {{redis.call('PTTL', KEYS[1]), all}}
"""
UPDATE = f"""{FIND}
for i = 3, #ARGV, 2 do
    if ARGV[i + 1] == '' then
        redis.call('HDEL', KEYS[1], ARGV[i])
    else
        redis.call('HSET', KEYS[1], ARGV[i], string.sub(ARGV[i + 1], 2))
    end
end
{USE}
return 1
"""
# The index of a user must live as long as the last of the sessions in it, whatever ttl the store has that adds one.
CREATE = """
for _, handle in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if redis.call('EXISTS', 'session:one:' .. handle) == 0 then
        redis.call('SREM', KEYS[2], handle)
    end
end
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'secret', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('HSET', KEYS[1], 'end', redis.call('PEXPIRETIME', KEYS[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[4], 'LT')
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[5], 'NX')
redis.call('PEXPIRE', KEYS[2], ARGV[5], 'GT')
"""
REVOKE = """
if ARGV[1] ~= '' and ARGV[1] ~= redis.call('HGET', KEYS[1], 'secret') then
    return 0
end
return redis.call('DEL', KEYS[1])
"""
REVOKE_ALL = """
local ended = 0
for _, handle in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    ended = ended + redis.call('DEL', 'session:one:' .. handle)
end
return ended
"""
LIST = """
local found = {}
for _, handle in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local key = 'session:one:' .. handle
    if redis.call('EXISTS', key) == 1 then
        table.insert(found, {handle, redis.call('PTTL', key), redis.call('HGETALL', key)})
    end
end
return found
"""


@dataclass(frozen=True)
class Session:
    """A session as it was when it was asked for."""

    handle: str
    user_id: str
    fields: dict[str, str]
    ends_in: float
    id: str = field(repr=False)


class SessionStore:
    """The sessions of all users on that server."""

    def __init__(self, redis: Redis, idle_ttl: float, absolute_ttl: float) -> None:
        if idle_ttl < 0.001 or absolute_ttl < 0.001:
            raise ValueError(f"no session lives for {idle_ttl} s idle and {absolute_ttl} s in all")
        self._redis = redis
        self._idle = round(idle_ttl * 1000)
        self._absolute = round(absolute_ttl * 1000)

    async def create(self, user_id: str) -> Session:
        """A new session, without fields."""
        index = _index(user_id)
        handle, secret = secrets.token_urlsafe(12), secrets.token_urlsafe()
        arguments = (user_id, _digest(secret), handle, self._idle, self._absolute)
        await self._redis.eval(CREATE, 2, f"session:one:{handle}", index, *arguments)
        return Session(handle, user_id, {}, min(self._idle, self._absolute) / 1000, f"{handle}.{secret}")

    async def load(self, session_id: str) -> Session | None:
        """The session, which is used by that."""
        handle, answer = await self._use(LOAD, session_id)
        return _session(handle, answer, session_id) if answer else None

    async def update(self, session_id: str, /, **fields: str | None) -> bool:
        """Set these fields and leave the others; None takes a field away."""
        if not all(isinstance(value, str | None) for value in fields.values()):
            raise ValueError("a field is text, or None to take it away")
        changes: list[str] = []
        for name, value in fields.items():
            changes += [f".{name}", "" if value is None else f"={value}"]
        _, answer = await self._use(UPDATE, session_id, *changes)
        return answer is not None

    async def rotate(self, session_id: str) -> Session | None:
        """The same session under a new id."""
        secret = secrets.token_urlsafe()
        handle, answer = await self._use(ROTATE, session_id, _digest(secret))
        return _session(handle, answer, f"{handle}.{secret}") if answer else None

    async def revoke(self, session_id: str) -> bool:
        """End a session, given by its id or by its handle."""
        handle, dot, secret = session_id.partition(".")
        digest = _digest(secret) if dot else ""
        return bool(await self._redis.eval(REVOKE, 1, f"session:one:{handle}", digest))

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions of the user, and say how many."""
        return int(await self._redis.eval(REVOKE_ALL, 1, _index(user_id)))

    async def list(self, user_id: str) -> builtins.list[Session]:
        """The user's sessions, without ids."""
        found = await self._redis.eval(LIST, 1, _index(user_id))
        return [_session(handle.decode(), answer, "") for handle, *answer in found]

    async def _use(self, script: str, session_id: str, *arguments: str) -> tuple[str, Any]:
        handle, _, secret = session_id.partition(".")
        key = f"session:one:{handle}"
        return handle, await self._redis.eval(script, 1, key, _digest(secret), self._idle, *arguments)


def _index(user_id: str) -> str:
    if not user_id:
        raise ValueError("no user")
    return f"session:of:{user_id}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _session(handle: str, answer: builtins.list[Any], session_id: str) -> Session:
    left, flat = answer
    words = [word.decode() for word in flat]
    kept = {words[at]: words[at + 1] for at in range(0, len(words), 2)}
    fields = {name[1:]: value for name, value in kept.items() if name.startswith(".")}
    return Session(handle, kept["user"], fields, left / 1000, session_id)
