"""Faults on processes really happen, and nothing of a process outlives its check."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic

import psutil
import pytest

from faultline.testbed import LearnerProcess, Note, ProcessDied, Testbed, TestbedError
from faultline.testbed.nursery import Nursery

InProcess = Callable[[str], AbstractAsyncContextManager[LearnerProcess]]
OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

COUNTER = """
    import asyncio, os, subprocess, threading, time

    count = 0

    def total():
        return count

    async def spin():
        global count
        while True:
            count += 1
            await asyncio.sleep(0.001)

    async def leave_a_task():
        asyncio.get_running_loop().running = asyncio.ensure_future(spin())

    def leave_a_thread():
        threading.Thread(target=time.sleep, args=(600,)).start()

    def leave_a_subprocess():
        return subprocess.Popen(["sleep", "600"]).pid

    def leave_a_detached_process():
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if pid := os.fork():
                os.write(write, str(pid).encode())
                os._exit(0)
            time.sleep(600)
        os.wait()
        return int(os.read(read, 20))

    def leave_a_fork():
        if pid := os.fork():
            return pid
        time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_gone(pid: int) -> None:
    deadline = monotonic() + 5
    while not gone(pid):
        assert monotonic() < deadline, f"{psutil.Process(pid)} still runs"
        await asyncio.sleep(0.002)


async def test_a_paused_process_stands_still_until_it_is_resumed(on_testbed: OnTestbed) -> None:
    async with on_testbed(COUNTER) as testbed:
        process = await testbed.process("till-1")
        await process.request(None, "leave_a_task", (), {})
        child = await process.request(None, "leave_a_subprocess", (), {})

        async with testbed.paused(process):
            assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
            deadline = monotonic() + 5
            while psutil.Process(child).status() != psutil.STATUS_STOPPED:  # one of the group after the other
                assert monotonic() < deadline
            asked = asyncio.create_task(process.request(None, "total", (), {}))
            done, _ = await asyncio.wait([asked], timeout=0.1)
            assert not done

        first = await asked
        assert psutil.Process(process.pid).status() != psutil.STATUS_STOPPED
        deadline = monotonic() + 5
        while await process.request(None, "total", (), {}) <= first:
            assert monotonic() < deadline
        notes = [entry.text for entry in testbed.history.entries if isinstance(entry, Note)]
        assert notes == ["paused (SIGSTOP)", "resumed (SIGCONT)"]


async def test_the_tasks_that_the_learners_code_has_running_are_known_and_no_others(on_testbed: OnTestbed) -> None:
    async with on_testbed(COUNTER) as testbed:
        process = await testbed.process("till-1")
        assert await process.tasks() == []
        call = process.call(None, "spin")
        await process.request(None, "leave_a_task", (), {})

        [task] = await process.tasks()

        assert task.endswith(" in spin")
        assert await call.cancel()


async def test_a_killed_process_is_gone_and_what_it_was_doing_is_unknown(on_testbed: OnTestbed) -> None:
    async with on_testbed(COUNTER) as testbed:
        process = await testbed.process("till-1")
        asked = asyncio.create_task(process.request(None, "spin", (), {}))
        await process.request(None, "total", (), {})

        await process.kill()

        assert not psutil.pid_exists(process.pid)
        assert process.exit_code == -signal.SIGKILL
        with pytest.raises(ProcessDied, match=r"till-1 was killed by the check while it was in spin\(\)"):
            await asked
        with pytest.raises(ProcessDied, match="was killed by the check before it was asked for total"):
            await process.request(None, "total", (), {})


@pytest.mark.parametrize("kind", ["a_thread", "a_subprocess", "a_fork", "a_detached_process", "a_task"])
@pytest.mark.parametrize("by", ["the end of the check", "kill", "its own exit"])
async def test_what_a_process_leaves_running_ends_with_it(in_process: InProcess, kind: str, by: str) -> None:
    async with in_process(COUNTER) as process:
        left = await process.request(None, f"leave_{kind}", (), {})
        pids = [process.pid, *([left] if left else [])]
        if by == "kill":
            await process.kill()
        elif by == "its own exit":
            os.kill(process.pid, signal.SIGSEGV)
        if by != "the end of the check":
            for pid in pids:
                await until_gone(pid)
    for pid in pids:
        await until_gone(pid)


async def test_a_process_that_is_killed_at_once_is_killed(on_testbed: OnTestbed) -> None:
    async with on_testbed(COUNTER) as testbed:
        for number in range(30):
            process = await testbed.process(f"till-{number}")
            await process.kill()
            assert not psutil.pid_exists(process.pid)


async def test_many_processes_at_once(on_testbed: OnTestbed) -> None:
    async with on_testbed(COUNTER) as testbed:
        processes = await testbed.processes(40, "till")
        totals = await asyncio.gather(*(process.request(None, "total", (), {}) for process in processes))
        pids = {process.pid for process in processes}
        assert totals == [0] * 40
        assert len(pids) == 40
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_process_whose_birth_is_cancelled_is_ended_and_takes_nobody_elses_place(
    on_testbed: OnTestbed, nursery: Nursery
) -> None:
    async with on_testbed(COUNTER) as testbed:
        for number in range(10):
            unwanted = asyncio.create_task(testbed.process(f"unwanted-{number}"))
            await asyncio.sleep(0)
            unwanted.cancel()
            wanted = await testbed.process(f"wanted-{number}")
            await asyncio.gather(unwanted, return_exceptions=True)
            await wanted.request(None, "total", (), {})
            await wanted.kill()
            assert not psutil.pid_exists(wanted.pid)
    deadline = monotonic() + 5
    while psutil.Process(nursery.pid).children():
        assert monotonic() < deadline
        await asyncio.sleep(0.002)


async def test_processes_that_block_or_stand_still_die_with_the_nursery_and_nobody_blames_the_learner(
    on_testbed: OnTestbed, nursery: Nursery
) -> None:
    async with on_testbed("import time\ndef block():\n    while True: pass\n") as testbed:
        paused, blocked = await testbed.processes(2, "till")
        asked = asyncio.create_task(blocked.request(None, "block", (), {}))
        await paused.pause()

        os.kill(nursery.pid, signal.SIGKILL)

        for process in (paused, blocked):
            await until_gone(process.pid)
        with pytest.raises(TestbedError, match="the nursery died"):
            await asked
        with pytest.raises(TestbedError, match="the nursery has died"):
            await testbed.process("till-3")


async def test_a_pause_that_does_not_pause_and_a_kill_that_does_not_kill_are_errors_of_ours(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_process(COUNTER) as process:
        with monkeypatch.context() as patched:
            patched.setattr("faultline.testbed.process._VERIFY_WITHIN", 0.1)
            patched.setattr(os, "killpg", lambda *_: None)
            with pytest.raises(TestbedError, match=r"till-1 \(pid \d+\) did not stop at SIGSTOP within 0.1 s"):
                await process.pause()
            with pytest.raises(TestbedError, match=r"did not die at SIGKILL"):
                await process.kill()


async def test_a_resume_that_does_not_resume_is_an_error_of_ours(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_process(COUNTER) as process:
        await process.pause()
        with monkeypatch.context() as patched:
            patched.setattr("faultline.testbed.process._VERIFY_WITHIN", 0.1)
            patched.setattr(os, "killpg", lambda *_: None)
            with pytest.raises(TestbedError, match="did not go on at SIGCONT"):
                await process.resume()


async def test_a_nursery_that_is_stopped_meanwhile_is_made_to_go_on(on_testbed: OnTestbed) -> None:
    async with on_testbed(COUNTER) as testbed:

        async def disturb() -> None:
            while True:
                os.kill(testbed.nursery.pid, signal.SIGSTOP)
                await asyncio.sleep(0)

        disturbing = asyncio.create_task(disturb())
        born = [asyncio.create_task(testbed.process(f"shop-{number}")) for number in range(20)]
        await asyncio.sleep(0.05)
        disturbing.cancel()
        assert all(process.pid for process in await asyncio.gather(*born))
