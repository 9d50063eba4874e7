"""The warden of one run: forks the grader, watches its time, and leaves nothing of it behind.

The grader, its servers and the learner's processes are all descendants of the warden, also those that tried to
detach: the warden is their subreaper. It ends them when the grader ends, when the time is up, when they are too
many, when nobody listens any more, or when the warm runner, its parent, is gone.
"""

import asyncio
import contextlib
import os
import select
import shutil
import signal
import time
import traceback
from pathlib import Path

from faultline.components import Unkillable
from faultline.engine.descendants import become_subreaper, count_descendants, end_descendants
from faultline.engine.grading import grade
from faultline.engine.run_folders import sweep_runs
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import Ended, Event, to_line
from faultline.testbed.parent_death import die_with_parent

_LOOK_EVERY = 0.5  # seconds


def oversee(request: RunRequest, events: int, *, parent: int) -> None:
    """Run the grader to its end and write the last event to the descriptor `events`.

    Call it in a process that `parent` has forked for it.
    """
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: _abandon(request))
    die_with_parent(signal.SIGTERM, parent=parent)
    become_subreaper()
    began = time.monotonic()
    warden = os.getpid()
    grader = os.fork()
    if grader == 0:
        _be_grader(request, events, warden)
    with contextlib.suppress(Unkillable):  # the next run tries again
        asyncio.run(sweep_runs(Path(request.root)))
    trouble = _watch(grader, events, request) or _told(request)
    end_descendants()
    shutil.rmtree(request.folder, ignore_errors=True)
    with contextlib.suppress(BrokenPipeError):
        _send(events, Ended(round(time.monotonic() - began, 3), trouble))


def _be_grader(request: RunRequest, events: int, warden: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL, parent=warden)
    trouble = "the grader did not come to its end"
    try:
        _trouble_file(request).parent.mkdir(parents=True, exist_ok=True)
        trouble = grade(request, lambda event: _send(events, event))
    except BaseException as error:  # the last frame of a forked process
        trouble = "".join(traceback.format_exception(error))
    finally:
        _trouble_file(request).write_text(trouble)
        os._exit(0)


def _trouble_file(request: RunRequest) -> Path:
    return Path(request.folder) / "trouble"


def _send(events: int, event: Event) -> None:
    line = to_line(event)
    while line:
        line = line[os.write(events, line) :]


def _watch(grader: int, events: int, request: RunRequest) -> str:
    """Wait for the grader; returns what went wrong, or ""."""
    deadline = time.monotonic() + request.limit
    handle = os.pidfd_open(grader)
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.register(events, 0)  # POLLERR comes unasked, when the reader has gone
    try:
        while not (happened := dict(poller.poll(_LOOK_EVERY * 1000))):
            if time.monotonic() > deadline:
                return f"the run was ended after {request.limit:g} s, its limit"
            if (count := count_descendants()) > request.process_limit:
                return f"the run was ended at {count} processes; its limit is {request.process_limit}"
    finally:
        os.close(handle)
    if handle not in happened:
        return "nobody listens any more"
    _, status = os.waitpid(grader, 0)
    code = os.waitstatus_to_exitcode(status)
    return "" if code == 0 else f"the grader ended with {code}"


def _told(request: RunRequest) -> str:
    try:
        return _trouble_file(request).read_text()
    except OSError as error:
        return f"the grader left no word: {error}"


def _abandon(request: RunRequest) -> None:
    end_descendants()
    shutil.rmtree(request.folder, ignore_errors=True)
    os._exit(1)
