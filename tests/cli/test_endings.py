"""A verb that is asked to end, once and again, at the moments that nobody can time by hand."""

import asyncio
import signal
import subprocess
import sys

import pytest

from faultline.cli import endings

BETWEEN = '''
import asyncio, linecache, signal, sys
from faultline.cli import endings

ASKED = [signal.SIGINT, signal.{second}]
between = 0

def traced(frame, event, argument):
    return loop_traced if frame.f_code.co_name == "_run_once" else None

def loop_traced(frame, event, argument):
    """The loop has taken a callback from its queue and is about to call it."""
    global between
    if event == "line" and "handle._cancelled" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
        if len(ASKED) == 1:
            between += 1
            signal.raise_signal(ASKED.pop())
    return loop_traced

async def main():
    asyncio.get_running_loop().call_soon(lambda: signal.raise_signal(ASKED.pop(0)))
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)

endings.hear_endings()
sys.settrace(traced)
try:
    endings.run(main())
except KeyboardInterrupt as ending:
    sys.settrace(None)
    print(type(ending).__name__, between)
'''


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_the_second_ending_comes_between_the_taking_of_a_callback_and_its_call(second: str) -> None:
    said = _said(BETWEEN.format(second=second))
    assert said == "cleaned up\nKeyboardInterrupt 1\n"


CUT_SHORT = """
import asyncio, signal
from faultline.cli import endings

async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(signal.raise_signal, signal.SIGTERM)
    try:
        await asyncio.Event().wait()
    finally:
        loop.call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(600)
        finally:
            print("cut short", flush=True)

endings.hear_endings()
try:
    endings.run(main())
except endings.Ended as ending:
    print(ending)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_the_second_ending_cuts_short_what_the_first_began_and_the_first_is_named() -> None:
    assert _said(CUT_SHORT) == "cut short\nSIGTERM\nTrue\n"


LEFT = """
import asyncio, signal
from faultline.cli import endings

async def stubborn():
    try:
        await asyncio.sleep(600)
    finally:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(600)
        finally:
            print("cut short", flush=True)

async def main():
    asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    return 7

print(endings.run(main()))
"""


def test_what_the_end_of_the_loop_waits_for_is_cut_short_too() -> None:
    assert _said(LEFT) == "cut short\n7\n"


def test_a_cancellation_from_within_is_no_ending() -> None:
    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        endings.run(main())


def test_an_ending_that_is_ignored_stays_ignored() -> None:
    """`nohup ./lab up`, and what a shell starts in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        async def main() -> str:
            signal.raise_signal(signal.SIGHUP)
            await asyncio.sleep(0)
            return "goes on"

        assert endings.run(main()) == "goes on"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def _said(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    ).stdout
