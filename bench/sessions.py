"""Our session store beside starsessions: what is kept of updates at the same time, and what a load costs.

    python -m bench.sessions

Starts its own Redis; takes about 20 s. Goals: SE1, of a field and 20 more that are set at the same time 21 are kept, in
every round; SE2, a load that moves the expiry costs at most 1.5 times a raw HGETALL of the same session (HGETALL and
EXPIRE in one MULTI, which do less, cost about that).
"""

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.interleave import compare, machine
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.requests import HTTPConnection
from starsessions.serializers import JsonSerializer
from starsessions.session import SessionHandler
from starsessions.stores.redis import RedisStore

from faultline.components import Supervisor
from faultline.patterns import SessionStore

RAW, OURS, PEER = "raw HGETALL", "faultline", "starsessions"
UPDATES, COST = 20, 1.5
IDLE = 1800
DATA = {"theme": "dark", "language": "en", "cart": "guest-4711", "csrf": "x" * 32, "seen": "shoes,hats,socks"}

Update = Callable[[str, str], Coroutine[Any, Any, object]]


class Starsessions:
    """A request, as its middleware makes it with `rolling`: read all, write all."""

    def __init__(self, client: Redis) -> None:
        self.store = RedisStore(connection=client, prefix="starsessions:")

    async def request(self, session_id: str | None, fields: Mapping[str, str]) -> str:
        at = HTTPConnection({"type": "http"})
        handler = SessionHandler(at, session_id, self.store, JsonSerializer(), IDLE)
        await handler.load()
        at.session.update(fields)
        return await handler.save(IDLE)

    async def fields(self, session_id: str) -> int:
        kept = json.loads(await self.store.read(session_id, IDLE))
        return len([name for name in kept if name.startswith("field-")])


async def at_once(update: Update, session_id: str) -> None:
    """One field, and when that is there 20 more at the same time."""
    await update(session_id, "field-0")
    async with asyncio.TaskGroup() as page:
        for number in range(1, UPDATES + 1):
            page.create_task(update(session_id, f"field-{number}"))


async def kept(client: Redis, *, rounds: int) -> bool:
    store, peer = SessionStore(client, IDLE, 10 * IDLE), Starsessions(client)
    mine, theirs = list[int](), list[int]()
    for _ in range(rounds):
        session = await store.create("ann")
        await at_once(lambda at, name: store.update(at, **{name: "1"}), session.id)
        loaded = await store.load(session.id)
        mine.append(len(loaded.fields) if loaded else 0)
        other = await peer.request(None, {"user": "ann"})
        await at_once(lambda at, name: peer.request(at, {name: "1"}), other)
        theirs.append(await peer.fields(other))
    wanted = UPDATES + 1
    print(f"\nSE1  {wanted} fields of one session, {UPDATES} of them at the same time: kept, in {rounds} rounds")
    for name, found in ((OURS, mine), (PEER, theirs)):
        print(f"  {name:28} {min(found)}-{max(found)} of {wanted}")
    return goal(f"SE1 {min(mine)} of {wanted} in the worst round", min(mine) == wanted)


async def costs(client: Redis, *, calls: int, rounds: int, chance: random.Random) -> bool:
    store, peer = SessionStore(client, IDLE, 10 * IDLE), Starsessions(client)
    mine = await store.create("ann", **DATA)
    theirs = await peer.request(None, DATA)
    await client.hset("raw:hash", mapping={"user": "ann", "secret": "x" * 64, "end": "1" * 13, **DATA})
    await client.set("raw:text", json.dumps(DATA))

    async def decoded() -> dict[str, str]:
        kept: Any = await client.hgetall("raw:hash")
        return {name.decode(): value.decode() for name, value in kept.items()}

    async def with_expiry() -> object:
        async with client.pipeline() as together:
            together.hgetall("raw:hash")
            together.expire("raw:hash", IDLE)
            return await together.execute()

    async def text() -> object:
        return json.loads(await client.getex("raw:text", ex=IDLE) or b"{}")

    found = await compare(
        {
            "PING": client.ping,
            "raw GETEX, JSON": text,
            RAW: decoded,
            "raw MULTI HGETALL + EXPIRE": with_expiry,
            OURS: lambda: store.load(mine.id),
            PEER: lambda: peer.request(theirs, {}),
        },
        base=RAW,
        calls=calls,
        rounds=rounds,
        chance=chance,
    )
    print(f"\nSE2  a load that moves the expiry: us, median of {rounds} rounds of {calls}; ratio to {RAW}")
    for name, cost in found.items():
        print(f"  {name:28} {cost.middle:6.0f}  ({min(cost.rounds):.0f}-{max(cost.rounds):.0f})   x{cost.ratio:.2f}")
    return goal(f"SE2 x{found[OURS].ratio:.2f} <= x{COST}", found[OURS].ratio <= COST)


def goal(sentence: str, met: bool) -> bool:
    print(f"  {'met   ' if met else 'MISSED'}  {sentence}")
    return met


async def main() -> bool:
    seed = 7
    with tempfile.TemporaryDirectory() as folder:
        async with Supervisor(Path(folder)) as supervisor:
            server = await supervisor.start("redis")
            client = Redis(host=server.host, port=server.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))
            try:
                facts = await client.info("server")
                peers = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "starsessions"))
                print(
                    f"{machine()}\nserver {facts.get('valkey_version') or facts['redis_version']}, {peers}, seed {seed}"
                )
                met = [
                    await kept(client, rounds=10),
                    await costs(client, calls=50, rounds=60, chance=random.Random(seed)),
                ]
                print(f"\n{machine()}")
            finally:
                await client.aclose()
    return all(met)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
