"""A disk that the check fills: whoever writes gets a true ENOSPC, and goes on when there is room again."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from faultline.testbed import Raised, Testbed, TestbedError, Vacuous

OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

JOURNAL = """
    import os

    class Journal:
        def __init__(self, folder):
            self.path = os.path.join(folder, "journal")

        def write(self, size):
            with open(self.path, "ab") as journal:
                journal.write(bytes(size))
                journal.flush()
                os.fsync(journal.fileno())

        def size(self):
            return os.path.getsize(self.path)
"""


async def test_a_learners_process_meets_a_full_disk_and_then_room(on_testbed: OnTestbed) -> None:
    async with on_testbed(JOURNAL) as testbed:
        disk = await testbed.tiny_disk(1)
        journal = await (await testbed.process("shop")).new("Journal", str(disk.folder))
        await journal.write(100_000)
        assert 800_000 < disk.free < 2**20

        disk.fill()
        with pytest.raises(Raised, match=r"OSError: \[Errno 28\] No space left on device"):
            await journal.write(100_000)
        assert disk.was_full
        disk.make_room()

        size = await journal.size()
        await journal.write(100_000)
        assert await journal.size() == size + 100_000
        testbed.prove_faults()


async def test_redis_refuses_writes_on_a_full_disk_and_takes_them_again(on_testbed: OnTestbed) -> None:
    async with on_testbed(JOURNAL) as testbed:
        disk = await testbed.tiny_disk()
        redis = await testbed.redis(disk=disk)
        await redis.truth.set("before", 1)
        disk.fill()

        async def refuses() -> bool:
            try:
                await redis.truth.set("much", os.urandom(10_000))
            except ResponseError as error:
                return "MISCONF" in str(error)
            return False

        await testbed.until(refuses, "the full disk was noticed")
        assert await redis.truth.get("before") == b"1", "it still answers"
        disk.make_room()

        async def takes() -> bool:
            return not await refuses()

        await testbed.until(takes, "there was room again")
        await redis.kill()
        await redis.restart()
        assert await redis.truth.get("before") == b"1", "the disk outlives its server"
        testbed.prove_faults()


@pytest.mark.skipif(os.geteuid() == 0, reason="under root, PostgreSQL cannot reach the disk")
async def test_postgres_refuses_to_grow_a_table_on_a_full_disk_and_grows_it_again(on_testbed: OnTestbed) -> None:
    import psycopg

    async with on_testbed(JOURNAL) as testbed:
        disk = await testbed.tiny_disk()
        db = await testbed.postgres()
        await db.script(f"CREATE TABLESPACE tiny LOCATION '{disk.folder}'")
        await db.script("CREATE TABLE t (a text) TABLESPACE tiny")
        disk.fill()
        grow = "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 100)"
        with pytest.raises(psycopg.errors.DiskFull):
            await db.script(grow)
        disk.make_room()
        await db.script(grow)
        assert await db.truth("SELECT count(*) FROM t") == [(100,)]
        testbed.prove_faults()


async def test_a_disk_that_nobody_found_full_proves_nothing(on_testbed: OnTestbed) -> None:
    async with on_testbed(JOURNAL) as testbed:
        disk = await testbed.tiny_disk(1)
        journal = await (await testbed.process("shop")).new("Journal", str(disk.folder))
        disk.fill()
        await journal.write(10)
        disk.make_room()
        with pytest.raises(Vacuous, match="the fault 'full disk' never hit"):
            testbed.prove_faults()


def list_of_mounts() -> str:
    return Path("/proc/mounts").read_text()


async def test_the_disk_is_gone_with_the_check(on_testbed: OnTestbed, tmp_path: Path) -> None:
    mounts = list_of_mounts()
    async with on_testbed(JOURNAL) as testbed:
        disk = await testbed.tiny_disk(1)
        (disk.folder / "file").write_text("x")
        assert list((tmp_path / "run").glob("disk-*/file")) == [], "nothing of it is in the folder outside"
        assert list_of_mounts() == mounts
    assert not disk.folder.exists()


async def test_where_there_are_no_namespaces_it_says_so(
    on_testbed: OnTestbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "unshare").write_text("#!/bin/sh\necho 'unshare: Operation not permitted'\nexit 1\n")
    (fake / "unshare").chmod(0o755)
    async with on_testbed(JOURNAL) as testbed:
        monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
        with pytest.raises(TestbedError, match=r"no tiny disk: .* \(unshare: Operation not permitted\); allow user"):
            await asyncio.wait_for(testbed.tiny_disk(), 20)
