"""Sessions without a script: two keys with an expiry of their own each, and MULTI behind WATCH.

`session:idle:DIGEST` lives for the idle time, `session:data:HANDLE` to the absolute end; a session is there as long as
both are. The index of a user says which digest is whose.
"""

import builtins
import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError


@dataclass(frozen=True)
class Session:
    """A session as it was when it was asked for."""

    handle: str
    user_id: str
    fields: dict[str, str]
    ends_in: float
    id: str = field(repr=False)


def _idle_key(session_id: str) -> str:
    return "session:idle:" + hashlib.blake2b(session_id.encode(), digest_size=24).hexdigest()


def _data_key(handle: str) -> str:
    return f"session:data:{handle}"


def _index_key(user_id: str) -> str:
    return f"session:user:{user_id}"


def _read(data: dict[bytes, bytes]) -> tuple[str, dict[str, str]]:
    fields = {name[2:].decode(): value.decode() for name, value in data.items() if name.startswith(b"f:")}
    return data[b"user"].decode(), fields


class SessionStore:
    """The sessions of all users on that server."""

    def __init__(self, redis: Redis, idle_ttl: float, absolute_ttl: float) -> None:
        self.redis: Any = redis
        self.absolute = int(absolute_ttl * 1000)
        self.idle = int(idle_ttl * 1000)
        if min(self.idle, self.absolute) < 1:
            raise ValueError("a ttl is 0.001 seconds or more")

    async def _repeat(self, attempt: Callable[[Any], Awaitable[Any]]) -> Any:
        """Until nobody has touched what was watched."""
        while True:
            async with self.redis.pipeline() as transaction:
                try:
                    return await attempt(transaction)
                except WatchError as error:
                    if isinstance(error.__context__, RedisError):  # what it says of a broken connection, too
                        raise error.__context__ from None

    async def create(self, user_id: str) -> Session:
        """A new session, without fields."""
        if not user_id:
            raise ValueError("user_id")
        handle, index = os.urandom(10).hex(), _index_key(user_id)
        session_id = f"{handle}~{os.urandom(20).hex()}"
        data, idle = _data_key(handle), _idle_key(session_id)

        async def attempt(transaction: Any) -> None:
            await transaction.watch(index)
            known = await transaction.hgetall(index)
            living = await transaction.mget(list(known.values())) if known else []
            transaction.multi()
            for (old, where), alive in zip(known.items(), living, strict=True):
                if alive is None:
                    transaction.hdel(index, old)
                    transaction.delete(where, _data_key(old.decode()))
            transaction.set(idle, "", px=self.idle)
            transaction.hset(data, mapping={"user": user_id, "idle": idle})
            transaction.pexpire(data, self.absolute)
            transaction.hset(index, handle, idle)
            transaction.pexpire(index, self.absolute, nx=True)
            transaction.pexpire(index, self.absolute, gt=True)
            await transaction.execute()

        await self._repeat(attempt)
        return Session(handle, user_id, {}, min(self.idle, self.absolute) / 1000, session_id)

    async def load(self, session_id: str) -> Session | None:
        """The session, which is used by that."""
        handle, idle = session_id.partition("~")[0], _idle_key(session_id)
        async with self.redis.pipeline() as transaction:
            transaction.pexpire(idle, self.idle)
            transaction.hgetall(_data_key(handle))
            transaction.pttl(_data_key(handle))
            used, data, left = await transaction.execute()
        if not used or not data:
            return None
        user_id, fields = _read(data)
        return Session(handle, user_id, fields, min(self.idle, left) / 1000, session_id)

    async def update(self, session_id: str, /, **fields: str | None) -> bool:
        """Set these fields and leave the others; None takes a field away."""
        for value in fields.values():
            if value is not None and type(value) is not str:
                raise ValueError("a field is text, or None")
        data, idle = _data_key(session_id.partition("~")[0]), _idle_key(session_id)
        kept = {f"f:{name}": value for name, value in fields.items() if value is not None}
        taken = [f"f:{name}" for name, value in fields.items() if value is None]

        async def attempt(transaction: Any) -> bool:
            await transaction.watch(data, idle)
            if await transaction.exists(data, idle) < 2:
                return False
            transaction.multi()
            if kept:
                transaction.hset(data, mapping=kept)
            if taken:
                transaction.hdel(data, *taken)
            transaction.pexpire(idle, self.idle)
            await transaction.execute()
            return True

        return await self._repeat(attempt)

    async def rotate(self, session_id: str) -> Session | None:
        """The same session under a new id."""
        handle = session_id.partition("~")[0]
        new_id = f"{handle}~{os.urandom(20).hex()}"
        data, old, new = _data_key(handle), _idle_key(session_id), _idle_key(new_id)

        async def attempt(transaction: Any) -> tuple[dict[bytes, bytes], int] | None:
            await transaction.watch(data, old)
            user = await transaction.hget(data, "user")
            if user is None or not await transaction.exists(old):
                return None
            transaction.multi()
            transaction.delete(old)
            transaction.set(new, "", px=self.idle)
            transaction.hset(data, "idle", new)
            transaction.hset(_index_key(user.decode()), handle, new)
            transaction.hgetall(data)
            transaction.pttl(data)
            *_, kept, left = await transaction.execute()
            return kept, left

        rotated = await self._repeat(attempt)
        if rotated is None:
            return None
        user_id, fields = _read(rotated[0])
        return Session(handle, user_id, fields, min(self.idle, rotated[1]) / 1000, new_id)

    async def revoke(self, session_id: str) -> bool:
        """End a session, given by its id or by its handle."""
        handle, by_id, _ = session_id.partition("~")
        data = _data_key(handle)

        async def attempt(transaction: Any) -> bool:
            await transaction.watch(data)
            user, idle = await transaction.hmget(data, "user", "idle")
            if idle is None or (by_id and idle.decode() != _idle_key(session_id)):
                return False
            transaction.multi()
            transaction.delete(idle)
            transaction.delete(data)
            transaction.hdel(_index_key(user.decode()), handle)
            ended, *_ = await transaction.execute()
            return ended == 1

        return await self._repeat(attempt)

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions of the user, and say how many."""
        if not user_id:
            raise ValueError("user_id")
        index = _index_key(user_id)

        async def attempt(transaction: Any) -> int:
            await transaction.watch(index)
            known = await transaction.hgetall(index)
            transaction.multi()
            for handle, idle in known.items():
                transaction.exists(_data_key(handle.decode()))
                transaction.delete(idle)
                transaction.delete(_data_key(handle.decode()))
            transaction.delete(index)
            told = await transaction.execute()
            return sum(there and used for there, used in zip(told[0:-1:3], told[1:-1:3], strict=True))

        return await self._repeat(attempt)

    async def list(self, user_id: str) -> builtins.list[Session]:
        """The user's sessions, without ids."""
        if not user_id:
            raise ValueError("user_id")
        index = _index_key(user_id)

        async def attempt(transaction: Any) -> tuple[builtins.list[bytes], builtins.list[Any]]:
            await transaction.watch(index)  # a rotation writes there, too: what is read is of one moment
            known = await transaction.hgetall(index)
            transaction.multi()
            for handle, idle in known.items():
                transaction.hgetall(_data_key(handle.decode()))
                transaction.pttl(_data_key(handle.decode()))
                transaction.pttl(idle)
            return [*known], await transaction.execute()

        handles, told = await self._repeat(attempt)
        found = []
        for handle, data, left, idle in zip(handles, told[::3], told[1::3], told[2::3], strict=True):
            if idle >= 0 <= left:
                found.append(Session(handle.decode(), *_read(data), min(idle, left) / 1000, ""))
        return found
