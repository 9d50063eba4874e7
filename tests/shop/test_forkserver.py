"""What the fork-server and every service promise about beginning and ending."""

import asyncio
import os
import signal
from pathlib import Path
from signal import SIGKILL, SIGTERM

import psycopg
import pytest
from tests.shop.conftest import Shop, opened, until

from faultline.components import Clone, records
from faultline.components.processes import look
from faultline.components.supervisor import sweep
from faultline.engine import shop
from faultline.shop.database import dsn
from faultline.shop.topology import queues, replicas

pytestmark = [
    pytest.mark.once,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("forkserver"),
]
NAMES = shop.SEARCHLESS
PRICE = {"price": {"cents": 7}}


async def test_each_service_is_a_process_of_its_own_under_its_name(shop_: Shop) -> None:
    found = shop.read(shop_.services.folder)
    assert [one.name for one in found] == [replica.name for replica in replicas(NAMES)]
    for one in found:
        process = look(one.pid or 0)
        assert process
        assert process.parent == shop_.services.process.pid
        assert Path(f"/proc/{one.pid}/comm").read_text().strip() == one.name  # noqa: ASYNC240


async def test_who_is_killed_is_started_again_on_its_port_and_the_others_notice_nothing(shop_: Shop) -> None:
    other = shop_.process("catalog-2")
    for _ in range(3):
        before = shop_.process("catalog-1")
        assert before.pid
        os.kill(before.pid, SIGKILL)
        await shop_.again("catalog-1", after=before.pid)
        after = shop_.process("catalog-1")
        assert (after.port, after.starts) == (before.port, before.starts + 1)
    assert shop_.process("catalog-2") == other
    assert '"code":-9' in (shop_.services.folder / shop.LOG).read_text()


async def test_the_map_has_every_queue_that_is_heard(shop_: Shop) -> None:
    there = await shop_.broker.server.manage("GET", f"queues/{shop_.broker.vhost}")
    parked = {one["name"].removesuffix(".parked") for one in there if one["name"].endswith(".parked")}
    assert parked == set(queues()) - {"search.events"}


async def test_who_is_asked_to_end_answers_first_what_it_was_asked(shop_: Shop) -> None:
    await shop_.ask(
        "catalog-1", "/v1/products", {"sku": "held", "name": "Hat", "category": "hats", "price": {"cents": 1}}
    )
    before = shop_.process("catalog-1")
    assert before.pid
    process = look(before.pid)
    assert process
    async with await psycopg.AsyncConnection.connect(dsn(shop_.postgres.url, "catalog")) as connection:
        await connection.execute("SELECT FROM product WHERE sku = 'held' FOR UPDATE")
        hold = shop_.before_postgres.hold_reply(lambda args: b"FOR UPDATE" in b" ".join(args))
        change = asyncio.create_task(shop_.ask("catalog-1", "/v1/products/held/price", PRICE, method="PUT"))

        async def waits() -> bool:
            asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return bool(await shop_.rows("postgres", asked))

        await until(waits)
        hold.release()
        os.kill(before.pid, SIGTERM)

        async def refuses() -> bool:
            try:
                (await asyncio.open_connection("127.0.0.1", before.port))[1].close()
            except ConnectionRefusedError:
                return True
            return False

        await until(refuses)
        assert not change.done()
        await connection.commit()
    assert (await change).body["price"]["cents"] == 7
    await shop_.again("catalog-1", after=before.pid)
    assert not process.alive
    assert f'"pid":{before.pid},"code":0' in (shop_.services.folder / shop.LOG).read_text()


async def test_a_fork_server_that_is_killed_takes_its_services_along(
    shared_broker: tuple[str, int, int], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)  # noqa: ASYNC240
    async with opened(tmp_path, shared_broker) as one:
        children = [look(service.pid or 0) for service in shop.read(one.services.folder)]
        os.kill(one.services.process.pid, SIGKILL)

        async def gone() -> bool:
            return not any(child and child.alive for child in children)

        await until(gone)


async def test_what_a_killed_command_left_running_the_next_one_ends(
    shared_broker: tuple[str, int, int], tmp_path: Path
) -> None:
    """As after kill -9 of `lab shop up`, had the kernel not ended the fork-server with it."""
    tmp_path.chmod(0o755)  # noqa: ASYNC240
    clone = Clone(tmp_path, os.environ)
    async with opened(tmp_path, shared_broker) as one:
        children = [look(service.pid or 0) for service in shop.read(one.services.folder)]
        assert [record.name for record in records.read(clone.shop)] == ["services"]
        assert [record.name for record in await sweep(clone.shop)] == ["services"]
        assert not any(child and child.alive for child in children)


@pytest.mark.slow
async def test_its_end_leaves_nothing_running(shared_broker: tuple[str, int, int], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # noqa: ASYNC240
    async with opened(tmp_path, shared_broker) as one:
        processes = [look(service.pid or 0) for service in shop.read(one.services.folder)]
        processes.append(look(one.services.process.pid))
        paused = one.process("catalog-2").pid
        assert paused
        os.kill(paused, signal.SIGSTOP)  # it does not hear that it is to end
    assert len(processes) == len(replicas(NAMES)) + 1
    assert not any(process and process.alive for process in processes)
    assert not records.read(Clone(tmp_path, os.environ).shop)
    assert one.services.process.returncode == 0
