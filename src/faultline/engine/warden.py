"""The warden of one run: forks the grader, watches its time, and leaves nothing of it behind.

The grader, its servers and the learner's processes are all descendants of the warden, also those that tried to
detach: the warden is their subreaper. It ends them when the grader ends, when the time is up, when they are too
many, when nobody listens any more, or when the warm runner, its parent, is gone.
"""

import asyncio
import contextlib
import os
import select
import signal
import time
import traceback
from pathlib import Path

import msgspec

from faultline.components import Unkillable
from faultline.engine.grading import grade
from faultline.engine.run_folders import remove, sweep_runs
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import Ended, Event, to_line
from faultline.testbed.descendants import become_subreaper, below, end_descendants
from faultline.testbed.parent_death import die_with_parent

_LOOK_EVERY = 0.5  # seconds
_WELL = b"end:"  # what the grader's last words begin with, also when there is no trouble to tell
_LONGEST = 30_000  # bytes of trouble; a pipe holds more


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
    word, pen = os.pipe()
    grader = os.fork()
    if grader == 0:
        _be_grader(request, events, pen, warden)
    os.close(pen)
    with contextlib.suppress(Unkillable):  # the next run tries again
        asyncio.run(sweep_runs(Path(request.root)))
    ended = _watch(grader, events, request) or Ended(0, _told(word))
    end_descendants()
    remove(Path(request.folder))
    with contextlib.suppress(BrokenPipeError):
        _send(events, msgspec.structs.replace(ended, seconds=round(time.monotonic() - began, 3)))


def _be_grader(request: RunRequest, events: int, pen: int, warden: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(signal.SIGKILL, parent=warden)
    trouble = "the grader did not come to its end"
    try:
        Path(request.folder).mkdir(parents=True, exist_ok=True)
        trouble = grade(request, lambda event: _send(events, event))
    except BaseException as error:  # the last frame of a forked process
        trouble = "".join(traceback.format_exception(error))
    finally:
        os.write(pen, _WELL + trouble.encode(errors="replace")[-_LONGEST:])
        os._exit(0)


def _send(events: int, event: Event) -> None:
    line = to_line(event)
    while line:
        line = line[os.write(events, line) :]


def _watch(grader: int, events: int, request: RunRequest) -> Ended | None:
    """Wait for the grader; returns what went wrong, if anything did."""
    deadline = time.monotonic() + request.limit
    handle = os.pidfd_open(grader)
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.register(events, 0)  # POLLERR comes unasked, when the reader has gone
    try:
        while not (happened := dict(poller.poll(_LOOK_EVERY * 1000))):
            if time.monotonic() > deadline:
                return Ended(0, f"the run was ended after {request.limit:g} s, its limit")
            if (count := len(below({os.getpid()}))) > request.process_limit:
                allowed = f"its limit is {request.process_limit}"
                return Ended(0, f"the run was ended at {count} processes, started by your code; {allowed}", theirs=True)
            os.kill(grader, signal.SIGCONT)  # whoever has stopped it
    finally:
        os.close(handle)
    if handle not in happened:
        return Ended(0, "nobody listens any more")
    _, status = os.waitpid(grader, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(0, f"the grader {_how_it_ended(code)}") if code else None


def _how_it_ended(code: int) -> str:
    if code != -signal.SIGKILL:
        return f"ended with {code}"
    return "was ended by SIGKILL; memory may have run out, or somebody has killed it"


def _told(word: int) -> str:
    os.set_blocking(word, False)
    try:
        said = os.read(word, len(_WELL) + _LONGEST)
    except BlockingIOError:  # something holds it open
        said = b""
    return said.removeprefix(_WELL).decode() if said else "the grader left no word"


def _abandon(request: RunRequest) -> None:
    end_descendants()
    remove(Path(request.folder))
    os._exit(1)
