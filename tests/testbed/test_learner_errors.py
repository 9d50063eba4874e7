"""Whatever the learner's code raises or does to its process is told, with its place, and never hangs the grader."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from faultline.testbed import LearnerProcess, Outcome, ProcessDied, Raised, Testbed

InProcess = Callable[[str], AbstractAsyncContextManager[LearnerProcess]]
OnTestbed = Callable[[str], AbstractAsyncContextManager[Testbed]]

RAISING = """\
import asyncio, os, sys, time

class LockError(LookupError):
    pass

class Unprintable(Exception):
    def __str__(self):
        raise KeyError("no")

def deep():
    raise LockError("nobody is there")

async def fail():
    deep()

async def cancelled():
    raise asyncio.CancelledError

def surrogate():
    raise ValueError("\\ud800")

def unprintable():
    raise Unprintable

def sys_exit():
    sys.exit("good bye")

def exit(code):
    print("the last words")
    os._exit(code)

def interrupt():
    raise KeyboardInterrupt

def crash():
    import ctypes
    ctypes.string_at(0)

def hang_up():
    os.closerange(3, 100)
    time.sleep(60)

def garbage():
    for descriptor in range(3, 30):
        try:
            os.write(descriptor, b"\\x00\\x00\\x00\\x01X")
        except OSError:
            pass
    return None

def ask():
    return "alive"
"""


async def test_an_exception_tells_its_bases_and_the_line_in_the_learners_file(in_process: InProcess) -> None:
    async with in_process(RAISING) as process:
        with pytest.raises(Raised, match=r"^LockError: nobody is there, at answer\.py:11$") as raised:
            await process.request(None, "fail", (), {})
    error = raised.value
    assert (error.kind, error.message, error.where) == ("LockError", "nobody is there", "answer.py:11")
    assert error.bases == ("LockError", "LookupError", "Exception", "BaseException", "object")


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("cancelled", "CancelledError", ""),
        ("surrogate", "ValueError", "?"),
        ("unprintable", "Unprintable", "(its message cannot be read: KeyError)"),
        ("sys_exit", "SystemExit", "good bye"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("absent", "AttributeError", "module 'answer' has no attribute 'absent'"),
    ],
)
async def test_every_exception_is_reported_and_the_process_lives_on(
    in_process: InProcess, what: str, kind: str, message: str
) -> None:
    async with in_process(RAISING) as process:
        with pytest.raises(Raised) as raised:
            await process.request(None, what, (), {})
        assert (raised.value.kind, raised.value.message) == (kind, message)
        assert await process.request(None, "ask", (), {}) == "alive"


@pytest.mark.parametrize(
    ("source", "kind", "where"),
    [
        ("class Lock:\n    def oops(:\n", "SyntaxError", "answer.py:2"),
        ("\n1 / 0\n", "ZeroDivisionError", "answer.py:2"),
    ],
    ids=["syntax", "import"],
)
async def test_a_file_that_cannot_be_loaded_tells_the_line_each_time(
    in_process: InProcess, source: str, kind: str, where: str
) -> None:
    async with in_process(source) as process:
        for _ in range(2):
            with pytest.raises(Raised) as raised:
                await process.new("Lock")
            assert (raised.value.kind, raised.value.where) == (kind, where)


@pytest.mark.parametrize(
    ("call", "how"),
    [
        (("exit", 3), r"itself with exit code 3, .* when it was in exit\(3\); it last printed: the last words$"),
        (("exit", 0), r"itself with exit code 0, "),
        (("crash",), r"by SIGSEGV when it was in crash\(\)$"),
    ],
    ids=["exit 3", "exit 0", "segmentation fault"],
)
async def test_a_process_that_ends_itself_tells_how(on_testbed: OnTestbed, call: tuple[str, int], how: str) -> None:
    async with on_testbed(RAISING) as testbed:
        process = await testbed.process("till-1")
        name, *arguments = call
        with pytest.raises(ProcessDied, match=f"^the process of your code, till-1, ended {how}"):
            await process.request(None, name, tuple(arguments), {})
        [operation] = testbed.history.operations()
        assert operation.outcome is Outcome.UNKNOWN

        with pytest.raises(ProcessDied, match=r"ended .* when it was asked for ask"):
            await process.request(None, "ask", (), {})
        for act in (process.pause, process.kill):
            with pytest.raises(ProcessDied, match=r"ended .* when it was to be"):
                await act()


@pytest.mark.parametrize(
    ("what", "told"),
    [("hang_up", "closed its connection to the grader"), ("garbage", "broke its connection to the grader")],
)
async def test_a_process_that_breaks_its_connection_is_no_hang(in_process: InProcess, what: str, told: str) -> None:
    async with in_process(RAISING) as process:
        with pytest.raises(ProcessDied, match=f"till-1 {told}"):
            await process.request(None, what, (), {})
        with pytest.raises(ProcessDied, match=told):
            await process.request(None, "ask", (), {})
