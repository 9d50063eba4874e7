"""The steps of a session store, each atomic on the server and in one round trip.

A session is a hash at `PREFIX:one:HANDLE`: `user`, `secret` (a digest), `end` (the absolute one, in ms of the server's
clock), and the fields, each with a dot before its name. Its expiry is the idle end, or the absolute one where that is
earlier; so no key of a session outlives it, and nothing has to be swept. `PREFIX:of:USER` is the set of the user's
handles.
"""

from __future__ import annotations

from faultline.patterns.script import Script

FIND = """
-- KEYS session; ARGV digest of the secret, idle ttl in ms, …; answers nil if it is not there or the secret is wrong
local kept = redis.call('HMGET', KEYS[1], 'secret', 'end')
if kept[1] ~= ARGV[1] then return nil end
"""
USE = """
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIREAT', KEYS[1], kept[2], 'LT')
"""
GIVE = f"""
local all = redis.call('HGETALL', KEYS[1])  -- before the expiry, which deletes a session that ends right now
{USE}
return {{math.max(redis.call('PTTL', KEYS[1]), 0), all}}
"""

LOAD = Script(FIND + GIVE)

ROTATE = Script(f"""{FIND}
-- ARGV[3] digest of the new secret
redis.call('HSET', KEYS[1], 'secret', ARGV[3])
{GIVE}""")

UPDATE = Script(f"""{FIND}
-- from ARGV[3]: a field and its value after a '=', or '' to take it away
for i = 3, #ARGV, 2 do
    if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[1], ARGV[i])
    else redis.call('HSET', KEYS[1], ARGV[i], string.sub(ARGV[i + 1], 2)) end
end
{USE}
return 1
""")

CREATE = Script("""
-- KEYS session index; ARGV prefix, handle, user, digest, idle ttl, absolute ttl in ms; then fields and values
local handles = redis.call('SMEMBERS', KEYS[2])
for _, handle in ipairs(handles) do  -- whoever logs in tidies up
    if redis.call('EXISTS', ARGV[1] .. handle) == 0 then redis.call('SREM', KEYS[2], handle) end
end
redis.call('HSET', KEYS[1], 'user', ARGV[3], 'secret', ARGV[4])
for i = 7, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('HSET', KEYS[1], 'end', redis.call('PEXPIRETIME', KEYS[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[5], 'LT')
redis.call('SADD', KEYS[2], ARGV[2])
-- as long as the longest session in it, whatever the ttls of the store that adds to it
redis.call('PEXPIRE', KEYS[2], ARGV[6], 'NX')
redis.call('PEXPIRE', KEYS[2], ARGV[6], 'GT')
return 1
""")

REVOKE = Script("""
-- KEYS session; ARGV start of an index's name, handle, digest of the secret or '' where the handle is enough
local kept = redis.call('HMGET', KEYS[1], 'secret', 'user')
if not kept[1] or (ARGV[3] ~= '' and ARGV[3] ~= kept[1]) then return 0 end
redis.call('SREM', ARGV[1] .. kept[2], ARGV[2])
return redis.call('DEL', KEYS[1])
""")

REVOKE_ALL = Script("""
-- KEYS index; ARGV start of a session's name
local ended = 0
for _, handle in ipairs(redis.call('SMEMBERS', KEYS[1])) do ended = ended + redis.call('DEL', ARGV[1] .. handle) end
redis.call('DEL', KEYS[1])
return ended
""")

LIST = Script("""
-- KEYS index; ARGV start of a session's name; answers handle, ms left and the hash of each
local found = {}
for _, handle in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local all = redis.call('HGETALL', ARGV[1] .. handle)
    if #all > 0 then table.insert(found, {handle, redis.call('PTTL', ARGV[1] .. handle), all}) end
end
return found
""")
