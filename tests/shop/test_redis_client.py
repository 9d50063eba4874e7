"""The client of Redis that the services share."""

from pathlib import Path

import pytest
import uvloop
from redis.exceptions import ConnectionError as HungUp

from faultline.components import Supervisor
from faultline.shop.redis_client import client


def test_a_connection_that_closes_under_a_request_is_a_server_that_has_hung_up(tmp_path: Path) -> None:
    """With uvloop, as services have it: it raises a RuntimeError, which nobody expects of a client."""

    async def main() -> None:
        async with Supervisor(tmp_path) as supervisor:
            server = await supervisor.start("redis")
            async with client(server.url, patience=5.0) as redis:
                connection = await redis.connection_pool.get_connection()
                connection._writer.transport.abort()  # pyright: ignore
                with pytest.raises(HungUp):  # by itself from Python 3.12 on
                    await connection.send_command("PING")
                await redis.connection_pool.release(connection)
                assert await redis.ping()

    uvloop.run(main())
