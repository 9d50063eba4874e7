"""Whatever is below a process is killed with it, also who loses its parent at that very moment."""

import signal
import subprocess
import sys
import time
from collections.abc import Collection

import psutil
import pytest

from faultline.testbed import descendants

PARENT = """
import subprocess
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
child.wait()
"""


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("dies_first", [False, True])
def test_all_below_is_killed(dies_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        send = descendants._signal

        def after_its_death(pids: Collection[int], number: signal.Signals) -> None:
            if number is signal.SIGSTOP and dies_first:
                parent.kill()
                while child.ppid() == parent.pid:
                    time.sleep(0.001)
            send(pids, number)

        monkeypatch.setattr(descendants, "_signal", after_its_death)
        descendants.kill_with_all_below([parent.pid])
    try:
        deadline = time.monotonic() + 10
        while not gone(child):
            assert time.monotonic() < deadline, f"{child} is {child.status()}"
            time.sleep(0.01)
    finally:
        if not gone(child):
            child.kill()
