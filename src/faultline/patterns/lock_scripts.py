"""The three things a lock does on one server, each in one atomic step and each safe to repeat for the same owner."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Protocol

from redis.exceptions import NoScriptError

WAITING_MS = 1_000  # a waiter says so before every block of at most 0.2 s
VOID_MS = 60_000  # about as long as TCP goes on delivering for a connection that was given up


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one lock: all start with its name, and all lie in one cluster slot."""

    lease: str
    """Owner of the lock; expires with the lease."""
    fence: str
    """The last token; never expires."""
    wake: str
    """A list with at most one entry: whoever pops it may try."""
    waiting: str
    """Present while somebody may be blocked on `wake`."""
    voids: str
    """Start of the notes that an owner has given up, so that a request that arrives late takes nothing."""

    @classmethod
    def of(cls, name: str) -> Keys:
        """The hash tag is what a cluster places them by."""
        start = f"{name}:{{{name}}}:"
        return cls(start + "lease", start + "fence", start + "wake", start + "waiting", start + "void:")


class Commands(Protocol):
    """What is needed of a `redis.asyncio.Redis`."""

    async def execute_command(self, *words: Any) -> Any:
        """The server's answer to one command."""
        ...

    def get_connection_kwargs(self) -> dict[str, Any]:
        """How the client connects."""
        ...


class Script:
    """Sent by its digest; the text follows only when the server does not know it, as after a restart."""

    __slots__ = ("_digest", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Commands, keys: tuple[str, ...], *arguments: str | float) -> int:
        """The script's answer, a number."""
        return int(await self.ask(client, keys, *arguments))

    async def ask(self, client: Commands, keys: tuple[str, ...], *arguments: str | bytes | float) -> Any:
        """The script's answer, whatever it is."""
        words = (len(keys), *keys, *arguments)
        try:
            return await client.execute_command("EVALSHA", self._digest, *words)
        except NoScriptError:
            return await client.execute_command("EVAL", self._text, *words)


TAKE = Script("""
-- KEYS lease fence waiting void; ARGV owner, ttl in ms, ms to remember a waiter (0: none)
-- answers the token, or minus the ms until the holder's lease ends
if redis.call('EXISTS', KEYS[4]) == 1 then return -1000 end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('INCR', KEYS[2]) end
if redis.call('GET', KEYS[1]) == ARGV[1] then  -- the client has sent this request before
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return redis.call('INCR', KEYS[2])
end
if ARGV[3] ~= '0' then redis.call('SET', KEYS[3], '', 'PX', ARGV[3]) end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then left = 1000 end  -- no lock of ours: somebody set the key by hand
return -left - 1
""")

EXTEND = Script("""
-- KEYS lease; ARGV owner, ttl in ms; answers 1 if it was still the owner's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

GIVE_BACK = Script("""
-- KEYS lease wake waiting void; ARGV owner, ms to refuse this owner from now on (0: no need)
-- answers 1 if it was the owner's; wakes one waiter whenever the lock is free
local ours = redis.call('GET', KEYS[1]) == ARGV[1]
if ours then redis.call('DEL', KEYS[1]) end
if ARGV[2] ~= '0' then redis.call('SET', KEYS[4], '', 'PX', ARGV[2]) end
if redis.call('EXISTS', KEYS[3]) == 1 and redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then
    redis.call('RPUSH', KEYS[2], 1)
    redis.call('PEXPIRE', KEYS[2], 1000)
end
return ours and 1 or 0
""")
