"""The same without an index and without leases: invalidating stamps a name, and reading compares.

A stamp is a random word. An entry notes those of its key and of its tags; it counts as long as they all stand, for one
that is missing was evicted. Level 1 hears what was stamped because Redis tracks a second key for each name (`CLIENT
TRACKING … BCAST`); nothing is published.
"""

import asyncio
import collections
import contextlib
import json
import time
import uuid

import redis.exceptions

STAMPS = """
local function standing(name)
    return redis.call('GET', 'cache:stamp:' .. name)
end
local function stamp(name)
    redis.call('SET', 'cache:stamp:' .. name, ARGV[1], 'NX')
    redis.call('PEXPIRE', 'cache:stamp:' .. name, ARGV[2])
    return standing(name)
end
"""
FIND = (
    STAMPS
    + """
local entry = 'cache:entry:' .. ARGV[3]
local value, stamps = unpack(redis.call('HMGET', entry, 'value', 'stamps'))
for name, noted in pairs(cjson.decode(stamps or '{}')) do
    value = standing(name) == noted and value
end
return value and {value, stamps, redis.call('PTTL', entry)} or {stamp('k' .. ARGV[3]), stamp('*')}
"""
)
STORE = (
    STAMPS
    + """
local key, entry = 'k' .. ARGV[3], 'cache:entry:' .. ARGV[3]
if standing(key) ~= ARGV[4] or standing('*') ~= ARGV[5] then
    return 0
end
local stamps = {[key] = stamp(key)}
for _, tag in ipairs(cjson.decode(ARGV[7])) do
    stamps['t' .. tag] = stamp('t' .. tag)
end
redis.call('HSET', entry, 'value', ARGV[6], 'stamps', cjson.encode(stamps))
return redis.call('PEXPIRE', entry, ARGV[8])
"""
)
STAMP = """
for _, name in ipairs({'stamp:' .. ARGV[3], 'told:' .. ARGV[3], ARGV[3]:sub(1, 1) == 't' and 'stamp:*' or nil}) do
    redis.call('SET', 'cache:' .. name, ARGV[1], 'PX', ARGV[2])
end
return 1
"""
SLOWEST = 20.0  # seconds that a load may take: stamps outlive it, and an entry
TROUBLE = (redis.exceptions.RedisError, OSError)


class CacheUnavailable(Exception):
    """Nobody knows whether it is invalidated."""


class CoherentCache:
    """What `load` gives, remembered for at most `ttl` seconds, or until it is invalidated."""

    def __init__(self, redis, load, ttl, size=1000, patience=0.2):
        if not ttl >= 0.01 or not size >= 1 or not patience > 0:
            raise ValueError((ttl, size, patience))
        self._client, self._load, self._ttl, self._size = redis, load, ttl, size
        self._patience = patience
        self._life = round((ttl + 2 * SLOWEST) * 1000)  # milliseconds that a stamp stands
        self._level_1 = collections.OrderedDict()  # key: (value, names, end)
        self._on_their_way = {}  # for each get: the names that were stamped meanwhile; None: anything may have been
        self._ears = None
        self._open = asyncio.Event()

    async def get(self, key):
        """The value."""
        if not key:
            raise ValueError(key)
        if key in self._level_1:
            value, _, end = self._level_1[key]
            if time.monotonic() < end:
                return value
        heard = set() if self._open.is_set() else {None}
        self._on_their_way[id(heard)] = heard
        try:
            return await self._get(key, heard)
        finally:
            del self._on_their_way[id(heard)]

    async def _get(self, key, heard):
        asked = time.monotonic()
        stamps = None
        with contextlib.suppress(*TROUBLE):
            found = await self._run(FIND, key)
            if len(found) == 3:
                value = found[0].decode()
                self._put(key, value, json.loads(found[1]).keys(), asked + found[2] / 1000, heard)
                return value
            stamps = found
        value, tags = await self._load(key)
        loaded = time.monotonic()
        if stamps:
            with contextlib.suppress(*TROUBLE):
                if await self._run(STORE, key, *stamps, value, json.dumps([*tags]), round(self._ttl * 1000)):
                    self._put(key, value, {f"k{key}", *(f"t{tag}" for tag in tags)}, loaded + self._ttl, heard)
        return value

    def _put(self, key, value, names, end, heard):
        if None in heard or names & heard:
            return
        self._level_1[key] = value, names, end
        while len(self._level_1) > self._size:
            self._level_1.popitem(last=False)

    async def _run(self, script, *arguments):
        async with asyncio.timeout(self._patience):
            return await self._client.eval(script, 0, uuid.uuid4().hex, self._life, *arguments)

    async def invalidate(self, key):
        """Forget this key."""
        await self._stamp("k", key)

    async def invalidate_tag(self, tag):
        """Forget all that has this tag."""
        await self._stamp("t", tag)

    async def _stamp(self, kind, name):
        if not name:
            raise ValueError(name)
        try:
            await self._run(STAMP, kind + name)
        except TROUBLE as error:
            raise CacheUnavailable(name) from error
        finally:
            self._hear(kind + name)

    def _hear(self, name):
        """A name was stamped; None: any name may have been."""
        for heard in self._on_their_way.values():
            heard.add(name)
        for key in [key for key, (_, names, _) in self._level_1.items() if name is None or name in names]:
            del self._level_1[key]

    async def start(self):
        """Begin to listen."""
        if not self._ears:
            self._ears = asyncio.ensure_future(self._listen())
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._open.wait(), 0.75)

    async def stop(self):
        """End that."""
        ears, self._ears = self._ears, None
        while ears and not ears.done():
            ears.cancel()
            await asyncio.wait([ears], timeout=0.1)

    async def _listen(self):
        while True:
            connection = self._client.connection_pool.make_connection()
            try:
                await self._track(connection)
            except TROUBLE:
                pass
            finally:
                self._open.clear()
                self._hear(None)
                await connection.disconnect(nowait=True)
            await asyncio.sleep(0.1)

    async def _track(self, connection):
        async def pushed(message):
            for name in message[1] or [None]:
                self._hear(name and name.decode().removeprefix("cache:told:"))

        async def answer(*command):
            async with asyncio.timeout(0.6):
                await connection.send_command(*command)
                return await connection.read_response(disconnect_on_error=False)

        async with asyncio.timeout(0.6):
            await connection.connect()
        connection._parser.set_invalidation_push_handler(pushed)  # noqa: SLF001 - redis-py has no other way to it
        await answer("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "cache:told:")
        self._hear(None)
        self._open.set()
        while True:  # a message is handled while an answer is waited for, or nothing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.4):
                    await connection.read_response(disconnect_on_error=False, push_request=True)
                continue
            await answer("PING")
