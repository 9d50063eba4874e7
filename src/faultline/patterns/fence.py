"""The storage's side of a lock: it refuses the token of a holder that comes too late.

A lock alone protects nothing: its holder may stand still, lose it, wake up and write. The storage must compare the
token with the largest it has seen, in the same atomic step as the write.

**On Redis** `Fence.admit` runs one command in the step that compares. **On PostgreSQL** run `POSTGRES_ADMIT` in the
transaction that writes, and roll back when it returns no row. The row stays locked until the transaction ends, so that
nobody overtakes between the comparison and the write:

    async with connection.transaction():
        admitted = await connection.execute(POSTGRES_ADMIT, {"name": "stock", "token": lease.token})
        if await admitted.fetchone() is None:
            raise Stale
        await connection.execute("UPDATE stock SET units = units - 1 WHERE sku = %s", [sku])

Where the writes of one lock all go to one row, a column does the same: `UPDATE … SET …, fence = %(token)s WHERE id =
%(id)s AND fence <= %(token)s`, and no row changed means refused.

**When the storage must mint the token itself.** The lock's counter lives on the lock's server. After a fail-over to an
asynchronous replica, or from a majority of independent servers, tokens may repeat or go back: a fence would then
refuse the rightful holder until the counter has caught up, and could admit two holders with the same token. Where that
may happen, let the lock only keep most contenders away, and take the token from the storage after acquiring:
`POSTGRES_MINT`. From that moment it refuses all earlier ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.patterns.script import Script

if TYPE_CHECKING:
    from redis.asyncio import Redis

POSTGRES_TABLE = "CREATE TABLE IF NOT EXISTS fence (name text PRIMARY KEY, token bigint NOT NULL)"

POSTGRES_ADMIT = """
INSERT INTO fence AS seen (name, token) VALUES (%(name)s, %(token)s)
ON CONFLICT (name) DO UPDATE SET token = EXCLUDED.token WHERE seen.token <= EXCLUDED.token
RETURNING token
"""
"""One row when the token may write, none when a larger one has been here."""

POSTGRES_MINT = """
INSERT INTO fence AS seen (name, token) VALUES (%(name)s, 1)
ON CONFLICT (name) DO UPDATE SET token = seen.token + 1
RETURNING token
"""
"""A token larger than all that were minted or admitted; commit before using it."""

ADMIT = Script("""
-- KEYS fence; ARGV token, then a command and its arguments, if any
if (tonumber(redis.call('GET', KEYS[1])) or 0) > tonumber(ARGV[1]) then return 0 end
if ARGV[2] then redis.call(unpack(ARGV, 2)) end  -- first: if it fails, nothing is remembered
redis.call('SET', KEYS[1], ARGV[1])
return 1
""")


class Fence:
    """Refuses every token that is smaller than one it has seen, together with the write that it came with.

    It is as durable as its server: what a crash or a fail-over makes that forget, it admits again. One Redis, no
    cluster: the command's keys are not declared. The client's errors are the caller's: whether the write happened is
    unknown then, and repeating it with the same token is as safe as repeating the command.
    """

    def __init__(self, client: Redis, name: str) -> None:
        if not name:
            raise ValueError("a fence needs a name: what it protects")
        self._client = client
        self._key = f"{name}:admitted"

    async def admit(self, token: int, *command: str | float) -> bool:
        """Run the command unless a larger token has been here: False, and nothing changed, if one has.

        Without a command it only compares and remembers: then whatever is written afterwards can still be too late.
        """
        return bool(await ADMIT.run(self._client, (self._key,), token, *command) == 1)
