"""The server that all runs of one command share: started once, started again if it dies, ended with its asker."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from faultline.engine.grades import Grade
from faultline.engine.run_request import RunRequest
from faultline.engine.shared_servers import SharedServers
from faultline.engine.verdicts import Verdict
from faultline.engine.warm import WarmRunner

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.timeout(240)]
Brokers = Callable[[], list[psutil.Process]]

CHECKS = """
async def test_first(testbed):
    '''Asks.'''
    assert await (await testbed.rabbitmq()).server.manage("GET", "overview")

async def test_second(testbed):
    '''Asks, too.'''
    async with (await testbed.rabbitmq()).connected():
        pass
"""


@pytest.fixture
def brokers() -> Brokers:
    """Those of this test, below this process: not what other tests share."""
    before = below(os.getpid(), "beam.smp")
    return lambda: [process for process in below(os.getpid(), "beam.smp") if process not in before]


def below(pid: int, name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended while we looked
            if process.name() == name:
                found.append(process)
    return found


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def gone(processes: list[psutil.Process]) -> bool:
    """Also the last thread of each: until then it is a zombie that its parent cannot see as ended."""
    deadline = time.monotonic() + 60
    while any(map(runs, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_runs_share_one_server_which_ends_with_their_runner(asked: Callable[..., RunRequest], brokers: Brokers) -> None:
    request = asked(CHECKS)
    before = set(psutil.Process().children(recursive=True))  # what another test's multiprocessing keeps, for example
    with WarmRunner(["rabbitmq"]) as runner:
        assert runner._shared
        grades = [Grade(), Grade()]
        for grade in grades:
            for event in runner.grade(request):
                grade.add(event)
        (server,) = brokers()
        everything = set(psutil.Process().children(recursive=True)) - before
    assert [grade.named(Verdict.PASS) for grade in grades] == [{"first", "second"}] * 2
    assert gone([server, *everything])
    assert not list((Path(request.root) / ".lab" / "runs").glob("*-shared-*"))


def test_a_server_that_has_died_is_started_again(brokers: Brokers) -> None:
    with SharedServers(dict(os.environ)) as servers:
        first = servers.broker(threading.Event())
        (server,) = brokers()
        server.kill()
        assert gone([server])
        assert servers.broker(threading.Event()) == first
        assert first
        socket.create_connection(first[:2], timeout=10).close()


def test_whoever_does_not_want_to_wait_any_longer_leaves_nothing_behind(brokers: Brokers) -> None:
    with SharedServers(dict(os.environ)) as servers:
        cancelled = threading.Event()
        threading.Timer(0.5, cancelled.set).start()
        assert servers.broker(cancelled) is None
        assert not brokers()


def test_a_broker_of_ones_own_may_take_longer_to_start_than_a_check_may_take(graded: Callable[..., Grade]) -> None:
    checks = """
        async def test_owns(testbed):
            broker = await testbed.own_rabbitmq()
            await broker.kill()
    """
    assert graded(checks, check_limit=2.0, limit=120.0).named(Verdict.PASS) == {"owns"}  # it takes 3 s at best


ASKER = """
import os, threading
from faultline.engine.shared_servers import SharedServers
SharedServers(dict(os.environ)).broker(threading.Event())
"""


def test_a_killed_asker_leaves_no_server() -> None:
    with subprocess.Popen([sys.executable, "-c", ASKER]) as asker:
        deadline = time.monotonic() + 60
        while not below(asker.pid, "beam.smp"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        everything = psutil.Process(asker.pid).children(recursive=True)
        asker.send_signal(signal.SIGKILL)
    assert gone(everything)
