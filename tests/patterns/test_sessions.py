"""What the session store promises besides what the checks of redis/07 ask: options, failures, and its form."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NoConnection

from faultline.components.proxy import named
from faultline.patterns import SessionStore

if TYPE_CHECKING:
    from tests.patterns.conftest import Servers, Until

    from faultline.components import Instance

SCRIPT = named("EVALSHA", "EVAL")


async def test_a_login_may_bring_its_first_fields(redis: Redis) -> None:
    store = SessionStore(redis, 60, 600)
    session = await store.create("ann", device="phone", user="root", self="x")

    assert session.fields == {"device": "phone", "user": "root", "self": "x"}
    loaded = await store.load(session.id)
    assert loaded == session
    assert (await store.list("ann"))[0].fields == session.fields


async def test_fields_that_are_no_text_create_nothing(redis: Redis) -> None:
    store = SessionStore(redis, 60, 600)
    with pytest.raises(ValueError, match="pages, size"):
        await store.create("ann", size=3, device="phone", pages=["x"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device"):
        await store.create("ann", device=None)  # type: ignore[arg-type]
    assert await redis.keys("*") == []


async def test_prefixes_are_worlds_of_their_own(redis: Redis) -> None:
    shop, admin = SessionStore(redis, 60, 600), SessionStore(redis, 60, 600, prefix="admin")
    ann = await shop.create("ann")

    assert await admin.load(ann.id) is None
    assert await admin.list("ann") == []
    assert await admin.revoke(ann.handle) is False
    boss = await admin.create("ann")
    assert await shop.revoke_all("ann") == 1
    assert (await admin.load(boss.id)) is not None
    keys: list[Any] = await redis.keys("*")
    assert all(key.startswith(b"admin:") for key in keys)


@pytest.mark.parametrize(
    ("idle", "absolute", "prefix"),
    [(0.0, 60, "s"), (60, 0.0, "s"), (-1, 60, "s"), (float("inf"), 60, "s"), (60, float("nan"), "s"), (60, 60, "")],
)
async def test_what_cannot_be_is_refused(redis: Redis, idle: float, absolute: float, prefix: str) -> None:
    with pytest.raises(ValueError, match=r"ttl|prefix"):
        SessionStore(redis, idle, absolute, prefix=prefix)


async def test_a_client_that_decodes_is_as_good(server: Instance) -> None:
    async with Redis(host=server.host, port=server.port, decode_responses=True) as redis:
        store = SessionStore(redis, 60, 600)
        session = await store.create("größe", size="42 €")
        rotated = await store.rotate(session.id)
        assert rotated is not None
        assert rotated.fields == {"size": "42 €"}
        assert [one.handle for one in await store.list("größe")] == [session.handle]
        assert await store.update(rotated.id, size=None) is True
        assert await store.revoke_all("größe") == 1


async def test_the_secret_is_not_in_its_text(redis: Redis) -> None:
    store = SessionStore(redis, 60, 600)
    session = await store.create("ann")
    handle, _, secret = session.id.partition(".")
    assert handle == session.handle
    assert secret not in repr(session)
    assert secret not in str(await store.list("ann"))


async def test_what_is_no_id_costs_nothing(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    store = SessionStore(servers.client(proxy), 60, 600)
    session = await store.create("ann")
    await store.load(session.id)  # brings the script
    before = proxy.counts.requests

    for text in ("", "x" * 100_000, session.handle, f"{session.id}.", f"{session.id}\n", "../..", "ä" * 60):
        assert await store.load(text) is None
        assert await store.update(text, theme="dark") is False
        assert await store.rotate(text) is None
    assert await store.revoke("x" * 100_000) is False
    assert proxy.counts.requests == before
    assert await store.load(session.id) is not None
    assert proxy.counts.requests == before + 1


async def test_every_call_is_one_round_trip(servers: Servers, server: Instance) -> None:
    proxy = await servers.proxy(server)
    store = SessionStore(servers.client(proxy), 60, 600)

    async def all_calls() -> None:
        sessions = [await store.create("ann", device=str(number)) for number in range(10)]
        assert await store.load(sessions[0].id)
        assert await store.update(sessions[0].id, theme="dark", device=None)
        assert await store.rotate(sessions[0].id)
        assert await store.revoke(sessions[0].handle)
        assert len(await store.list("ann")) == 9
        assert await store.revoke_all("ann") == 9

    await all_calls()  # brings the scripts
    before = proxy.counts
    await all_calls()
    assert (proxy.counts - before).round_trips == 16


async def test_a_server_that_lost_its_scripts_is_told_them_again(redis: Redis) -> None:
    store = SessionStore(redis, 60, 600)
    session = await store.create("ann")
    await redis.script_flush()
    assert await store.load(session.id) == session
    await redis.script_flush()
    assert await store.revoke_all("ann") == 1


async def test_a_dead_server_is_the_callers_to_handle(servers: Servers) -> None:
    server = await servers.start(append_only=True, fsync="always")
    store = SessionStore(servers.client(server), 60, 600)
    session = await store.create("ann")

    await server.kill()
    with pytest.raises(NoConnection):
        await store.load(session.id)
    await server.restart()
    assert await store.load(session.id) is not None


async def test_a_rotation_whose_answer_is_lost_leaves_one_session_that_nobody_can_open(
    servers: Servers, server: Instance, redis: Redis
) -> None:
    proxy = await servers.proxy(server)
    lost, store = SessionStore(servers.client(proxy), 60, 600), SessionStore(redis, 60, 600)
    await lost.rotate((await store.create("bob")).id)  # brings the script
    session = await store.create("ann")
    answer = proxy.hold_reply(SCRIPT)

    rotating = asyncio.create_task(lost.rotate(session.id))
    await answer.reached(5)
    rotating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rotating

    assert await store.load(session.id) is None
    assert [one.handle for one in await store.list("ann")] == [session.handle]
    assert await store.revoke(session.handle) is True


async def test_nothing_is_left_of_a_user_who_has_gone(redis: Redis, until: Until) -> None:
    store = SessionStore(redis, 0.05, 0.1)
    for _ in range(3):
        await store.create("ann")

    async def all_gone() -> bool:
        return await redis.dbsize() == 0

    await until(all_gone)


async def test_a_login_tidies_up(redis: Redis) -> None:
    store = SessionStore(redis, 60, 600)
    old = [await store.create("ann") for _ in range(5)]
    for one in old:
        await redis.pexpireat(f"session:one:{one.handle}", 1)  # long over
    assert await store.list("ann") == []
    assert await redis.scard("session:of:ann") == len(old)
    session = await store.create("ann")
    assert await redis.smembers("session:of:ann") == {session.handle.encode()}
    await store.revoke(session.id)
    assert await redis.dbsize() == 0


async def test_of_100_rotations_at_once_one_wins(redis: Redis) -> None:
    store = SessionStore(redis, 60, 600)
    session = await store.create("ann", theme="dark")

    rotated = await asyncio.gather(*(store.rotate(session.id) for _ in range(100)))

    winners = [one for one in rotated if one is not None]
    assert len(winners) == 1
    loaded = await store.load(winners[0].id)
    assert loaded is not None
    assert loaded.fields == {"theme": "dark"}
