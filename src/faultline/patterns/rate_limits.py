"""Two promises that a rate limit can make, each kept by one script on the server's clock: exact, and GCRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from faultline.patterns.script import Script

MICROSECONDS = 1_000_000  # in a second

# Both scripts: KEYS what is kept of this key; the last ARGV the cost.
# Both answer how many hits of cost 1 have room, and 0, or the microseconds until there is room for this one.
# An instant has 16 digits, of which Lua would print 14: so it is formatted by hand.
_EXACT = Script("""
-- ARGV limit, window in us, seconds to keep it, cost
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local limit, window, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local oldest = redis.call('LINDEX', KEYS[1], 0)
while oldest and tonumber(oldest) <= now - window do
    redis.call('LPOP', KEYS[1])
    oldest = redis.call('LINDEX', KEYS[1], 0)
end
local used = redis.call('LLEN', KEYS[1])
if used + cost > limit then
    return {math.max(limit - used, 0), redis.call('LINDEX', KEYS[1], used + cost - limit - 1) + window - now}
end
local instant = string.format('%.0f', now)
for _ = 1, cost do redis.call('RPUSH', KEYS[1], instant) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {limit - used - cost, 0}
""")

_GCRA = Script("""
-- ARGV microseconds a hit, burst, cost; kept is the instant at which all that was admitted will have leaked away
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local each, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local empty = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local room = burst - (empty - now) / each
if room < cost then
    return {math.max(math.floor(room), 0), math.ceil((cost - room) * each)}
end
empty = empty + cost * each
redis.call('SET', KEYS[1], string.format('%.17g', empty), 'PX', math.ceil((empty - now) / 1000))
return {math.floor(room - cost), 0}
""")


@dataclass(frozen=True, slots=True)
class Exact:
    """At most `limit` in any window of `per` seconds, wherever it begins.

    A log of the instants at which hits were admitted. O(limit) bytes a key (about 6 a hit); a hit takes O(1), and
    once O(n) for n hits that have left the window since the last one.
    """

    limit: int
    per: float
    script: ClassVar[Script] = _EXACT

    @property
    def most(self) -> int:
        """The largest cost of a hit."""
        return self.limit

    def arguments(self, cost: int) -> tuple[float, ...]:
        """What the script is told."""
        return (self.limit, round(self.per * MICROSECONDS), int(self.per) + 1, cost)


@dataclass(frozen=True, slots=True)
class Gcra:
    """A burst of `burst` at once, and `limit` in `per` seconds in the long run: a leaky bucket, kept as one instant.

    In one window of `per` seconds it admits up to `burst` + `limit`. O(1) bytes and time. The generic cell rate
    algorithm: ITU-T I.371, annex A; as one instant after https://brandur.org/rate-limiting.
    """

    limit: int
    per: float
    burst: int
    script: ClassVar[Script] = _GCRA

    @property
    def most(self) -> int:
        """The largest cost of a hit."""
        return self.burst

    def arguments(self, cost: int) -> tuple[float, ...]:
        """What the script is told."""
        return (self.per * MICROSECONDS / self.limit, self.burst, cost)
