"""PostgreSQL as its supervisor starts it, from PATH and from the wheel, as root and not."""

import os
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from faultline.components import Clone, Instance, NotRunning, StartFailed, Supervisor
from faultline.components.processes import look


def query(server: Instance, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url, autocommit=True, connect_timeout=10) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)  # type: ignore[call-overload]  # ours, not a learner's
        cursor = connection.execute(statements[-1])  # type: ignore[call-overload]  # likewise
        return cursor.fetchall() if cursor.description else []


FAST = {"fsync": False}


@pytest.fixture(params=["path", "wheel"])
def clone(request: pytest.FixtureRequest) -> Clone:
    here = Clone.here()
    return replace(here, environment={**here.environment, "LAB_PROVIDER": request.param})


def segments(creator: int | None) -> list[str]:
    rows = (row.split() for row in Path("/proc/sysvipc/shm").read_text().splitlines()[1:])
    return [row[1] for row in rows if row[4] == str(creator)]


async def test_it_serves_on_loopback_and_its_commits_survive_a_kill(tmp_path: Path, clone: Clone) -> None:
    async with Supervisor(tmp_path, clone) as supervisor:
        server = await supervisor.start("postgres", settings=FAST)
        query(server, "create table t (a int)", "insert into t values (1)")
        leader = psutil.Process(server.pid)
        family = [leader.pid, *(child.pid for child in leader.children(recursive=True))]
        assert len(family) > 3
        listening = {row.laddr for row in leader.net_connections("all") if row.status == "LISTEN"}
        assert listening == {("127.0.0.1", server.port)}

        await server.kill()
        assert not any(look(pid) for pid in family)
        with pytest.raises(NotRunning):
            await server.kill()

        await server.restart()
        assert query(server, "select a from t") == [(1,)]


async def test_a_pause_stops_all_its_processes(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        server = await supervisor.start("postgres", settings=FAST)
        with psycopg.connect(server.url) as held:
            await server.pause()
            family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            states = {process.status() for process in family} - {psutil.STATUS_ZOMBIE}  # its parent cannot reap now
            assert states == {psutil.STATUS_STOPPED}
            with pytest.raises(psycopg.OperationalError, match="timeout"):
                query(server, "select 1")

            await server.resume()
            assert held.execute("select 1").fetchone() == (1,)
        await server.pause()
        await server.stop()
        assert server.exit_code == 0


async def test_nothing_of_a_killed_server_stays_in_shared_memory(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        server = await supervisor.start("postgres", settings=FAST)
        pid = server.pid
        assert segments(pid)
        await server.kill()
        assert not segments(pid)


async def test_instances_are_apart_and_made_from_one_template(tmp_path: Path) -> None:
    clone = replace(Clone.here(), root=tmp_path, environment=Clone.here().environment)
    (tmp_path / "requirements").symlink_to(Clone.here().root / "requirements")
    async with Supervisor(tmp_path / "run", clone) as supervisor:
        first = await supervisor.start("postgres", settings=FAST)
        (template,) = [path for path in clone.cache.glob("postgres-*") if path.is_dir()]
        made = template.stat().st_mtime_ns
        query(first, "create table t (a int)")

        second = await supervisor.start("postgres", settings=FAST)

        assert query(second, "select count(*) from pg_tables where tablename = 't'") == [(0,)]
        assert [path for path in clone.cache.glob("postgres-*") if path.is_dir()] == [template]
        assert template.stat().st_mtime_ns == made


async def test_a_replica_streams_when_it_is_ready(tmp_path: Path, clone: Clone) -> None:
    async with Supervisor(tmp_path, clone) as supervisor:
        primary = await supervisor.start("postgres", settings=FAST)
        query(primary, "create table t (a int)", "insert into t values (1)")

        replica = await supervisor.start("postgres", settings={"replica_of": primary, **FAST})

        assert query(replica, "select a, pg_is_in_recovery() from t") == [(1, True)]


async def test_data_of_another_version_is_refused_with_a_way_out(tmp_path: Path) -> None:
    for provider in ("path", "wheel"):
        clone = replace(Clone.here(), environment={**Clone.here().environment, "LAB_PROVIDER": provider})
        async with Supervisor(tmp_path, clone) as supervisor:
            if provider == "path":
                await supervisor.start("postgres", settings=FAST)
            else:
                with pytest.raises(StartFailed, match=r"was made by PostgreSQL \d+, and .* is 18.*lab clean run"):
                    await supervisor.start("postgres", settings=FAST)


async def test_settings_reach_the_server(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        server = await supervisor.start("postgres", settings={"config": {"max_connections": "7"}})
        assert query(server, "show max_connections") == [("7",)]
        assert query(server, "show fsync") == [("on",)]
        assert query(server, "show wal_level") == [("logical",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
@pytest.mark.parametrize("tool", ["unshare", "setpriv"])
async def test_as_root_it_runs_as_somebody_else_in_folders_that_are_roots_alone(tmp_path: Path, tool: str) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in {tool, "setpriv"}:  # setpriv alone is what is left where user namespaces are forbidden
        (bin_ / name).symlink_to(f"/usr/bin/{name}")
    for name in ("cp", "true", "ipcrm"):
        (bin_ / name).symlink_to(f"/usr/bin/{name}")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    here = Clone.here()
    (private / "requirements").symlink_to(here.root / "requirements")
    clone = Clone(private, {**here.environment, "PATH": str(bin_), "LAB_PROVIDER": "wheel"})

    async with Supervisor(private / "run", clone) as supervisor:
        server = await supervisor.start("postgres", settings=FAST)
        assert query(server, "select current_setting('is_superuser')") == [("on",)]
        outside = psutil.Process(server.pid).uids().real
        assert outside == (0 if tool == "unshare" else 65_534)
        await server.kill()
        await server.restart()
        assert query(server, "select 1") == [(1,)]
