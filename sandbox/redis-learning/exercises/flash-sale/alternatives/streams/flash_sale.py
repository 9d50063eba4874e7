"""The line is a stream, the workers are its consumer group: whom one has taken up is what the group calls pending."""

from hashlib import sha256

from redis.asyncio import Redis

JOIN = """
local place = redis.call('HGET', KEYS[2], ARGV[1])
if place then return tonumber(place) end
redis.call('XADD', KEYS[1], '*', 'buyer', ARGV[1])
if redis.call('HLEN', KEYS[2]) == 0 then redis.call('XGROUP', 'CREATE', KEYS[1], 'tills', '0') end
place = redis.call('HLEN', KEYS[2]) + 1
redis.call('HSET', KEYS[2], ARGV[1], place)
return place
"""

NEXT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local found = redis.call('XAUTOCLAIM', KEYS[1], 'tills', 'till', ARGV[2], '0-0', 'COUNT', 10000)[2]
if #found > 0 then
    for i = 2, #found do  -- one is enough: the others stay as old as they were
        redis.call('XCLAIM', KEYS[1], 'tills', 'till', 0, found[i][1], 'IDLE', ARGV[2], 'JUSTID')
    end
    return {found[1][1], found[1][2][2]}
end
local busy = redis.call('XPENDING', KEYS[1], 'tills')[1]
if busy + tonumber(redis.call('GET', KEYS[3]) or 0) >= tonumber(ARGV[1]) then return false end
local read = redis.call('XREADGROUP', 'GROUP', 'tills', 'till', 'COUNT', 1, 'STREAMS', KEYS[1], '>')
if not read then return false end
return {read[1][2][1][1], read[1][2][1][2][2]}
"""

# XACK says 1 once for each entry: whoever hears it counts the unit
DONE = """
if redis.call('XACK', KEYS[1], 'tills', ARGV[1]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
    if ARGV[3] == 'sold' then redis.call('INCR', KEYS[3]) end
end
"""

STATUS = """
local final = redis.call('HGET', KEYS[2], ARGV[1])
if final then return final end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'nobody' end
if tonumber(redis.call('GET', KEYS[3]) or 0) >= tonumber(ARGV[2]) then return 'sold out' end
return 'waiting'
"""


class Declined(Exception):
    """The card pays nothing."""


class NotInLine(Exception):
    """The buyer has never joined."""


class FlashSale:
    """One sale, seen from one process."""

    def __init__(self, redis, payment, orders, *, sale: str, units: int, price: int, lease: float = 30.0) -> None:
        if sale == "":
            raise ValueError("sale")
        if min(units, price) <= 0:
            raise ValueError("units, price")
        if lease < 0.01:
            raise ValueError("lease")
        self.redis: Redis = redis
        self.payment, self.orders = payment, orders
        self.units, self.price, self.milliseconds = units, price, int(lease * 1000)
        self.digest = sha256(sale.encode()).hexdigest()
        self.line = f"{self.digest}:line"
        self.places = f"{self.digest}:places"
        self.answers = f"{self.digest}:answers"
        self.count = f"{self.digest}:sold"

    async def join(self, buyer: str) -> int:
        """Put this buyer into the line, once."""
        if buyer == "":
            raise ValueError("buyer")
        return int(await self.redis.eval(JOIN, 2, self.line, self.places, buyer))

    async def status(self, buyer: str) -> str:
        """Where this buyer stands."""
        if buyer == "":
            raise ValueError("buyer")
        keys = (self.places, self.answers, self.count)
        answer = (await self.redis.eval(STATUS, 3, *keys, buyer, self.units)).decode()
        if answer == "nobody":
            raise NotInLine(buyer)
        return answer

    async def work(self) -> bool:
        """Take up one buyer."""
        got = await self.redis.eval(NEXT, 3, self.line, self.answers, self.count, self.units, self.milliseconds)
        if not got:
            return False
        entry, buyer = got[0].decode(), got[1].decode()
        key = f"{self.digest} {entry}"  # entries are unique in a stream, and streams in Redis
        try:
            await self.orders.record(key, buyer, await self.payment.charge(key, buyer, self.price))
            answer = "sold"
        except Declined:
            answer = "declined"
        await self.redis.eval(DONE, 3, self.line, self.answers, self.count, entry, buyer, answer)
        return True
