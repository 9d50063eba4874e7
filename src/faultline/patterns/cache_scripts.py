"""What a cache does on the server, each in one atomic step: look, take the right to load, keep it, use it.

The right to load is a lease: a key with an owner and an expiry beside the entry. Only its owner may write the entry,
so whoever deletes it (to forget the entry) or outlives it (having stood still) has taken that right away.

    miss ──TAKE──▶ load: the lease is ours ──RENEW──▶ … ──END──▶ entry written, lease gone, waiters woken
             ├───▶ kept: somebody was quicker
             └───▶ wait: somebody loads; block on the stream `done`, then TAKE again
"""

from __future__ import annotations

from dataclasses import dataclass

from faultline.patterns.script import Script


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one entry. In a cluster they need a hash tag in `entry` to lie in one slot."""

    entry: str
    lease: str
    """Owner of the right to load; expires with it."""
    done: str
    """A stream of at most one message, for a second after a load has ended: whoever waits reads on from here."""

    @classmethod
    def of(cls, entry: str) -> Keys:
        """All begin with the entry's."""
        return cls(entry, f"{entry}:lease", f"{entry}:done")

    @property
    def all(self) -> tuple[str, str, str]:
        """In the order in which the scripts want them."""
        return self.entry, self.lease, self.done


LOOK = Script("""
-- KEYS entry; answers the entry and the ms that it has to live, or nothing
if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return false end
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
""")

TAKE = Script("""
-- KEYS entry lease done; ARGV owner, ttl of the lease in ms, the entry that was seen and is none
-- answers an entry, or 1 if the lease is ours, or 0, the last message in `done`, and the ms that the lease has left
local kept = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1])
if kept and kept ~= ARGV[3] then return {2, kept} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {1} end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
return {0, last and last[1] or '0-0', redis.call('PTTL', KEYS[2])}
""")

LEASE = Script("""
-- KEYS lease entry; ARGV owner, ttl in ms, ms that the entry had to live when it was seen
-- answers 1 if the lease is ours now, to load before the entry has expired; 0 if somebody has it, or has just loaded
if redis.call('PTTL', KEYS[2]) > tonumber(ARGV[3]) then return 0 end
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
""")

RENEW = Script("""
-- KEYS lease; ARGV owner, ttl in ms; answers 1 if it was still the owner's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

END = Script("""
-- KEYS entry lease done; ARGV owner, entry, ms that it lives (0: nothing is kept)
-- answers 1 if the lease was still the owner's: only then anything has changed
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[3] ~= '0' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
redis.call('XADD', KEYS[3], 'MAXLEN', 1, '*', '', '')
redis.call('PEXPIRE', KEYS[3], 1000)
return 1
""")
