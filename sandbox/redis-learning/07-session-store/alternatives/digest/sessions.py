"""Sessions under the digest of their whole id: one JSON text each, a sorted set of ends for each user.

The handle is a name of its own, that points to the digest. One script does everything, told what by its first argument.
"""

import builtins
import json
from base64 import b32encode
from dataclasses import dataclass, field
from hashlib import sha3_256
from random import SystemRandom
from typing import Any

from redis.asyncio import Redis

chance = SystemRandom()

SCRIPT = """
local verb, idle, absolute = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function read(digest)
    local kept = digest and redis.call('GET', 'session:d:' .. digest)
    local session = kept and cjson.decode(kept)
    return session and session.until_ > now and session or nil
end
local function write(digest, session)  -- also in the list, with the moment at which it ends
    session.until_ = math.min(now + idle, session.last)
    local left = session.until_ - now
    redis.call('SET', 'session:d:' .. digest, cjson.encode(session), 'PX', left)
    redis.call('SET', 'session:h:' .. session.handle, digest, 'PX', left)
    local list = 'session:u:' .. session.user
    redis.call('ZADD', list, session.until_, session.handle)
    local longest = session.last - now
    if redis.call('PTTL', list) < longest then redis.call('PEXPIRE', list, longest) end
end
local function forget(digest, session)
    redis.call('DEL', 'session:d:' .. digest, 'session:h:' .. session.handle)
    redis.call('ZREM', 'session:u:' .. session.user, session.handle)
end
local function answer(session)
    return cjson.encode({session.handle, session.user, session.fields, session.until_ - now})
end

if verb == 'create' then
    redis.call('ZREMRANGEBYSCORE', 'session:u:' .. ARGV[5], '-inf', now)
    local session = {user = ARGV[5], handle = ARGV[6], fields = {[''] = ''}, last = now + absolute}
    write(ARGV[4], session)
    return answer(session)
elseif verb == 'revoke' then
    local digest = ARGV[4]
    local session = read(digest)
    if not session then
        digest = redis.call('GET', 'session:h:' .. ARGV[5])
        session = read(digest)
    end
    if session then forget(digest, session) end
    return session and 1 or 0
elseif verb == 'list' or verb == 'revoke_all' then
    local found = {}
    for _, handle in ipairs(redis.call('ZRANGE', 'session:u:' .. ARGV[4], 0, -1)) do
        local digest = redis.call('GET', 'session:h:' .. handle)
        local session = read(digest)
        if session then
            table.insert(found, answer(session))
            if verb == 'revoke_all' then forget(digest, session) end
        end
    end
    return found
end
local session = read(ARGV[4])
if not session then return false end
local digest = ARGV[4]
if verb == 'update' then
    for name, value in pairs(cjson.decode(ARGV[5])) do
        session.fields['=' .. name] = value ~= cjson.null and value or nil
    end
elseif verb == 'rotate' then
    redis.call('DEL', 'session:d:' .. digest)
    digest = ARGV[5]
end
write(digest, session)
return answer(session)
"""


@dataclass(frozen=True)
class Session:
    """A session as it was when it was asked for."""

    handle: str
    user_id: str
    fields: dict[str, str]
    ends_in: float
    id: str = field(repr=False)


def _drawn(size: int) -> str:
    return b32encode(chance.randbytes(size)).decode().strip("=").lower()


def _of(session_id: str) -> str:
    return sha3_256(session_id.encode()).hexdigest()


class SessionStore:
    """The sessions of all users on that server."""

    def __init__(self, redis: Redis, idle_ttl: float, absolute_ttl: float) -> None:
        for ttl in (idle_ttl, absolute_ttl):
            if not ttl >= 0.001:
                raise ValueError("ttl")
        self.script = redis.register_script(SCRIPT)
        self.ttls = [int(idle_ttl * 1000), int(absolute_ttl * 1000)]

    async def _do(self, verb: str, *words: str) -> Any:
        return await self.script(args=[verb, *self.ttls, *words])

    def _made(self, answer: bytes | None, session_id: str = "") -> Session | None:
        if answer is None:
            return None
        handle, user_id, fields, left = json.loads(answer)
        return Session(handle, user_id, {name[1:]: fields[name] for name in fields if name}, left / 1e3, session_id)

    async def create(self, user_id: str) -> Session:
        """A new session, without fields."""
        session_id = _drawn(25)
        made = self._made(await self._do("create", _of(session_id), _named(user_id), _drawn(8)), session_id)
        assert made is not None
        return made

    async def load(self, session_id: str) -> Session | None:
        """The session, which is used by that."""
        return self._made(await self._do("load", _of(session_id)), session_id)

    async def update(self, session_id: str, /, **fields: str | None) -> bool:
        """Set these fields and leave the others; None takes a field away."""
        if any(value is not None and not isinstance(value, str) for value in fields.values()):
            raise ValueError("fields")
        return await self._do("update", _of(session_id), json.dumps(fields)) is not None

    async def rotate(self, session_id: str) -> Session | None:
        """The same session under a new id."""
        new = _drawn(25)
        return self._made(await self._do("rotate", _of(session_id), _of(new)), new)

    async def revoke(self, session_id: str) -> bool:
        """End a session, given by its id or by its handle."""
        return await self._do("revoke", _of(session_id), session_id) == 1

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions of the user, and say how many."""
        return len(await self._do("revoke_all", _named(user_id)))

    async def list(self, user_id: str) -> builtins.list[Session]:
        """The user's sessions, without ids."""
        found = [self._made(one) for one in await self._do("list", _named(user_id))]
        return [one for one in found if one is not None]


def _named(user_id: str) -> str:
    if user_id == "":
        raise ValueError("user_id")
    return user_id
