"""The steps of a coherent cache on its server, each atomic: read, store what was loaded, invalidate a key or a tag.

What was loaded may be stored only if nothing was invalidated since its load began that it belongs to. The *journal*
knows: a sorted set of names (`k:` and a key, `t:` and a tag), each with the instant of its last invalidation. It goes
back as far as a load may last, and its own birth is in it: whoever began before that may have missed something, because
the server has forgotten the journal that was there. So a journal that is lost refuses, and never lets anything through.

Instants are microseconds of the server's clock, made to grow: `clock` is the largest that was ever given out.
"""

from __future__ import annotations

from faultline.patterns.script import Script

LONGEST_LOAD = 60
"""Seconds; what takes longer is handed out, and not stored."""
JOURNAL = 100_000
"""Names in the journal; one more, and a new one begins, which refuses everything that is being loaded."""
CHUNK = 1_000
"""Members of a tag that are forgotten in one step."""

_NOW = f"""
local journal, name = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local milliseconds = time[1] * 1000 + math.floor(time[2] / 1000)
local now = math.max(time[1] * 1000000 + time[2], (redis.call('ZSCORE', journal, 'clock') or 0) + 1)
local function text(number) return string.format('%.0f', number) end
local function tick()
    if redis.call('ZCARD', journal) > {JOURNAL} then redis.call('DEL', journal) end
    redis.call('ZADD', journal, 'NX', text(-now), 'birth')
    redis.call('ZADD', journal, text(now), 'clock')
    redis.call('PEXPIRE', journal, {LONGEST_LOAD * 1000})
end
local function note(what)
    tick()
    redis.call('ZADD', journal, text(now), what)
    redis.call('ZREMRANGEBYSCORE', journal, 0, text(now - {LONGEST_LOAD * 1_000_000}))
end
"""

READ = Script(
    _NOW
    + """
-- KEYS journal, entry; ARGV key, start of the names of indexes
-- answers value, tags, milliseconds to live; or the instant at which a load may begin
-- what the index of a tag does not know has been evicted from there, and FORGET_TAG would not have found it
local entry = redis.call('HMGET', KEYS[2], 'value', 'tags')
local known = entry[1]
for _, tag in ipairs(cjson.decode(entry[2] or '[]')) do
    known = known and redis.call('ZSCORE', ARGV[2] .. tag, name)
end
if known then return {entry[1], entry[2], redis.call('PTTL', KEYS[2])} end
tick()
return {text(now)}
"""
)

STORE = Script(
    _NOW
    + f"""
-- KEYS journal, entry, index of each tag; ARGV key, instant, value, tags as JSON, milliseconds to live, each tag
-- answers 1 if it was stored, 0 if it may be old
local began = tonumber(ARGV[2])
local birth = redis.call('ZSCORE', journal, 'birth')
if not birth or -birth > began or now - began > {LONGEST_LOAD * 1_000_000} then return 0 end
local names = {{'k:' .. name}}
for n = 6, #ARGV do names[#names + 1] = 't:' .. ARGV[n] end
for _, noted in ipairs(redis.call('ZMSCORE', journal, unpack(names))) do
    if noted and tonumber(noted) >= began then return 0 end
end
redis.call('HSET', KEYS[2], 'value', ARGV[3], 'tags', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
for n = 3, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[n], '-inf', milliseconds)
    redis.call('ZADD', KEYS[n], milliseconds + ARGV[5], name)
    redis.call('PEXPIRE', KEYS[n], ARGV[5], 'NX')
    redis.call('PEXPIRE', KEYS[n], ARGV[5], 'GT')
end
return 1
"""
)

FORGET = Script(
    _NOW
    + """
-- KEYS journal, entry; ARGV key, channel
note('k:' .. name)
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[2], 'k:' .. name)
return 0
"""
)

FORGET_TAG = Script(
    _NOW
    + f"""
-- KEYS journal, index of the tag; ARGV tag, channel, start of the names of entries, 1 in the first step
-- answers how many members are left; others are told when there are none
if ARGV[4] == '1' then note('t:' .. name) end
local keys = redis.call('ZRANGE', KEYS[2], 0, {CHUNK - 1})
for _, key in ipairs(keys) do
    local tags = redis.call('HGET', ARGV[3] .. key, 'tags')
    for _, tag in ipairs(tags and cjson.decode(tags) or {{}}) do
        if tag == name then redis.call('DEL', ARGV[3] .. key) end
    end
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, {CHUNK - 1})
local left = redis.call('ZCARD', KEYS[2])
if left == 0 then redis.call('PUBLISH', ARGV[2], 't:' .. name) end
return left
"""
)
