"""What a leaderboard does on its server: five keys and some hashes, always in order, each step whole or not at all.

    {name}:ranking      sorted set: minus the score; member: the number of the product's last record, and the product
    {name}:places       hash: product -> its member
    {name}:due          sorted set: the hashes below, by the millisecond in which they count no more
    {name}:records      how many records there were: the order of ties
    {name}:sums:I:S     hash: product -> sum of its weights in bucket I, for the products of slice S

Scores are stored as their negatives, so that one order (`ZRANGE`) has the best first and, of equal scores, the smaller
member: the earlier record. Nothing of it is packed into the score, which keeps all its 53 bits.

Lifetimes: ranking, places, due and records end together, a window and a bucket after the last record, when nothing
counts any more. A hash of sums lives twice as long: as long as there can be a ranking that it is not taken out of.
"""

from __future__ import annotations

from faultline.patterns.script import Script

_BEGIN = """
-- ARGV name, window and bucket in ms; takes out what has left
local name, window, bucket = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ranking, places, due = name .. ':ranking', name .. ':places', name .. ':due'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, sums in ipairs(redis.call('ZRANGE', due, '-inf', string.format('%.0f', now), 'BYSCORE')) do
    local pairs_of_it = redis.call('HGETALL', sums)
    for i = 1, #pairs_of_it, 2 do
        local place = redis.call('HGET', places, pairs_of_it[i])
        if place and tonumber(redis.call('ZINCRBY', ranking, pairs_of_it[i + 1], place)) == 0 then
            redis.call('ZREM', ranking, place)
            redis.call('HDEL', places, pairs_of_it[i])
        end
    end
    redis.call('DEL', sums)
    redis.call('ZREM', due, sums)
end
"""

RECORD = Script(
    _BEGIN
    + """
-- ARGV[4..8] product, weight, slice, ms by which the buckets of that slice are shifted, channel
local product, weight, shift = ARGV[4], ARGV[5], tonumber(ARGV[7])
local index = math.floor((now - shift) / bucket)
local sums = name .. ':sums:' .. string.format('%.0f', index) .. ':' .. ARGV[6]
redis.call('HINCRBY', sums, product, weight)
redis.call('PEXPIRE', sums, 2 * (window + bucket))
redis.call('ZADD', due, (index + 1) * bucket + shift + window, sums)
local score, old = -weight, redis.call('HGET', places, product)
if old then
    score = score + redis.call('ZSCORE', ranking, old)
    redis.call('ZREM', ranking, old)
end
local place = string.format('%016.0f:', redis.call('INCR', name .. ':records')) .. product
redis.call('ZADD', ranking, score, place)
redis.call('HSET', places, product, place)
for _, key in ipairs({ranking, places, due, name .. ':records'}) do
    redis.call('PEXPIRE', key, window + bucket)
end
redis.call('PUBLISH', ARGV[8], string.format('%.0f:', -score) .. product)
"""
)

TOP = Script(
    _BEGIN + "--[[ ARGV[4] index of the last row ]] return {0, redis.call('ZRANGE', ranking, 0, ARGV[4], 'WITHSCORES')}"
)

RANK = Script(
    _BEGIN
    + """
-- ARGV[4] product
local place = redis.call('HGET', places, ARGV[4])
return place and redis.call('ZRANK', ranking, place)
"""
)

AROUND = Script(
    _BEGIN
    + """
-- ARGV[4..5] product, how many before and after it
local place = redis.call('HGET', places, ARGV[4])
if not place then return {0, {}} end
local rank, k = redis.call('ZRANK', ranking, place), tonumber(ARGV[5])
local first = math.max(0, rank - k)
return {first, redis.call('ZRANGE', ranking, first, rank + k, 'WITHSCORES')}
"""
)
