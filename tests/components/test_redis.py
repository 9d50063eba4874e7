"""What a started Redis promises by its settings."""

from pathlib import Path

import pytest
import redis.asyncio

from faultline.components import Instance, NotReady, Supervisor
from faultline.components.redis import Redis


def client(server: Instance) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(server.url, decode_responses=True)


@pytest.mark.parametrize(("append_only", "fsync"), [(True, "always"), (True, "everysec"), (False, "everysec")])
async def test_durability_is_what_the_settings_say(tmp_path: Path, append_only: bool, fsync: str) -> None:
    async with Supervisor(tmp_path) as supervisor:
        server = await supervisor.start("redis", settings={"append_only": append_only, "fsync": fsync})
        async with client(server) as connection:
            config = await connection.config_get("append*", "save")
    assert config["appendonly"] == ("yes" if append_only else "no")
    assert config["appendfsync"] == fsync
    assert config["save"] == ""


async def test_any_line_of_redis_conf_can_be_set(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        settings = {"config": {"maxmemory": "10mb", "maxmemory-policy": "allkeys-lru"}}
        server = await supervisor.start("redis", settings=settings)
        async with client(server) as connection:
            seen = await connection.config_get("maxmemory", "maxmemory-policy")
    assert seen == {"maxmemory": "10485760", "maxmemory-policy": "allkeys-lru"}


async def test_a_restarted_server_is_ready_when_all_is_loaded(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        server = await supervisor.start("redis", settings={"append_only": True, "fsync": "always"})
        async with client(server) as connection:
            pipe = connection.pipeline(transaction=False)
            for number in range(20_000):
                pipe.set(f"key {number}", "x" * 50)
            await pipe.execute()

        await server.restart()

        async with client(server) as connection:
            assert await connection.dbsize() == 20_000


async def test_a_replica_without_its_primary_is_not_ready(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        primary = await supervisor.start("redis")
        replica = await supervisor.start("redis", settings={"replica_of": primary})
        follower = Redis(replica_of=primary)
        await follower.ready(replica.url)

        await primary.kill()

        async with client(replica) as connection:
            while (await connection.info("replication"))["master_link_status"] != "down":
                pass
        with pytest.raises(NotReady, match=f"no copy yet of the primary at 127.0.0.1:{primary.port}"):
            await follower.ready(replica.url)


async def test_a_password_in_the_address_is_used(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        server = await supervisor.start("redis")
        async with client(server) as connection:
            await connection.config_set("requirepass", "a b")
        with pytest.raises(NotReady, match="NOAUTH"):
            await Redis().ready(server.url)
        with pytest.raises(NotReady, match="WRONGPASS"):
            await Redis().ready(f"redis://:nonsense@127.0.0.1:{server.port}")
        await Redis().ready(f"redis://:a%20b@127.0.0.1:{server.port}")
