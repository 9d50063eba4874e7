"""The guard against an empty pass: a fault that is switched off behind the check's back makes the verdict `error`.

Each fault is switched off where it acts, not where it is asked for: the check itself is untouched.
"""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from faultline.components import Clone
from faultline.engine.exercise import load
from faultline.engine.grades import Grade, request
from faultline.engine.module_names import find_module
from faultline.engine.roadmap import load as load_roadmap
from faultline.engine.run_request import RunRequest
from faultline.engine.verdicts import Judged, Verdict
from faultline.engine.warm import WarmRunner

Graded = Callable[..., Grade]

NO_FAULT = """
    from faultline.components.proxy import FaultProxy, Injected
    def nothing(self, fault, direction=None, *, on=None):
        return Injected(fault, direction or fault.usual, 1)
    FaultProxy.add = nothing
"""
NO_SIGNAL = """
    import os, signal
    from faultline.testbed import process
    real, swallowed = os.killpg, []
    def killpg(group, number):
        if number == signal.WHICH and not swallowed:
            swallowed.append(group)
        else:
            real(group, number)
    process.os = type("os", (), {"killpg": staticmethod(killpg)})
    process._VERIFY_WITHIN = 0.3
"""
NO_INSTANCE_KILL = """
    from signal import SIGCONT, SIGKILL
    from faultline.components import processes
    real, spared = processes.send, set()
    def send(found, number):
        found = list(found)
        if number == SIGKILL and not spared:
            spared.update(process.pid for process in found)
            real(found, SIGCONT)  # they were stopped before the kill
        else:
            real(found, number)
    processes.send = send
    processes.kill.__kwdefaults__["within"] = 0.3
"""
NO_INSTANCE_PAUSE = """
    from faultline.components import processes
    real = processes.pause
    async def pause(kin, *, within=0.3):
        send = processes.send
        processes.send = lambda found, number: None
        try:
            await real(kin, within=within)
        finally:
            processes.send = send
    processes.pause = pause
"""
NO_HOLD = """
    from faultline.components.proxy.hold import Hold
    Hold.claims = lambda self, command: False
"""

FAULTS = """
    async def test_one(testbed):
        redis = await testbed.redis()
        way = await testbed.proxy(redis)
        client = await (await testbed.process("till-1")).new("Client", way.at(socket_timeout=5.0))
        testbed.inject(way, Latency(0.01))
        await client.ping()
"""
HOLDS = """
    async def test_one(testbed):
        way = await testbed.proxy(await testbed.redis())
        client = await (await testbed.process("till-1")).new("Client", way.at(socket_timeout=5.0))
        hold = way.proxy.hold(lambda _: True)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.ping())
            await hold.reached(0.5)
            hold.release()
"""
PAUSES = """
    async def test_one(testbed):
        async with testbed.paused(await testbed.process("till-1")):
            pass
"""
KILLS = """
    async def test_one(testbed):
        await (await testbed.process("till-1")).kill()
"""
SERVER_PAUSES = """
    async def test_one(testbed):
        async with testbed.paused(await testbed.redis()):
            pass
"""
SERVER_KILLS = """
    async def test_one(testbed):
        await (await testbed.redis()).kill()
"""
CLIENT = """
    class Client:
        def __init__(self, redis):
            self.redis = redis

        async def ping(self):
            return await self.redis.ping()
"""
SWITCHED_OFF = [
    pytest.param(FAULTS, NO_FAULT, "Vacuous: the fault 'Latency", id="network fault"),
    pytest.param(HOLDS, NO_HOLD, "NotReached: 0 of 1 matching requests were held", id="hold"),
    pytest.param(PAUSES, NO_SIGNAL.replace("WHICH", "SIGSTOP"), "did not stop at SIGSTOP", id="pause"),
    pytest.param(KILLS, NO_SIGNAL.replace("WHICH", "SIGKILL"), "did not die at SIGKILL", id="kill"),
    pytest.param(SERVER_PAUSES, NO_INSTANCE_PAUSE, "Unkillable: ", id="server's pause"),
    pytest.param(SERVER_KILLS, NO_INSTANCE_KILL, "Unkillable: ", id="server's kill"),
]


@pytest.mark.parametrize(("check", "switch", "seen"), SWITCHED_OFF)
def test_a_fault_that_is_switched_off_makes_the_verdict_an_error(
    graded: Graded, check: str, switch: str, seen: str
) -> None:
    grade = graded(dedent(switch) + dedent(check), CLIENT)

    assert grade.verdict is Verdict.ERROR, grade.judged
    assert seen in grade.judged[0].seen


def test_with_their_faults_switched_on_the_same_checks_pass(graded: Graded) -> None:
    checks = [FAULTS, HOLDS, PAUSES, KILLS, SERVER_PAUSES, SERVER_KILLS]
    numbered = [dedent(check).replace("test_one", f"test_{number}") for number, check in enumerate(checks)]
    grade = graded("".join(numbered), CLIENT)
    assert [one.verdict for one in grade.judged] == [Verdict.PASS] * len(checks), grade.judged


def test_a_fault_that_no_traffic_meets_makes_the_verdict_an_error(graded: Graded) -> None:
    grade = graded(FAULTS.replace("await client.ping()", "pass"), CLIENT)
    assert grade.verdict is Verdict.ERROR
    assert "never hit, so this check has proved nothing" in grade.judged[0].seen


@pytest.mark.parametrize(
    ("end", "verdict", "seen"),
    [
        ("assert False, 'broken'", Verdict.FAIL, "broken"),
        (
            "await client.ping(); assert False, 'too early'",
            Verdict.ERROR,
            "hit none of 1 requests, so nothing is known",
        ),
        (
            "await client.ping(); raise Broken('both', [testbed.history.note('a', 'b')])",
            Verdict.FAIL,
            "both",
        ),
    ],
    ids=["before any request", "after a request", "with a witness"],
)
def test_a_failure_under_a_fault_that_is_switched_off_counts_only_if_it_stands_without_it(
    graded: Graded, end: str, verdict: Verdict, seen: str
) -> None:
    grade = graded(dedent(NO_FAULT) + dedent(FAULTS.replace("await client.ping()", end)), CLIENT)
    assert (grade.verdict, seen in grade.judged[0].seen) == (verdict, True), grade.judged


REAL = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("check", "switch"),
    [
        ("time_spent_acquiring_is_not_validity", NO_FAULT),
        ("only_the_owner_releases", NO_HOLD),
        ("late_holder_is_visible", NO_SIGNAL.replace("WHICH", "SIGSTOP")),
        ("killed_holder_frees_the_lock", NO_SIGNAL.replace("WHICH", "SIGKILL")),
        ("one_server_of_three_may_fail", NO_INSTANCE_PAUSE),
        ("too_few_servers_leave_nothing", NO_INSTANCE_KILL),
    ],
    ids=["network fault", "hold", "pause", "kill", "server's pause", "server's kill"],
)
def test_the_real_checks_of_redis_05_give_no_empty_pass_to_the_reference(
    warm: WarmRunner, tmp_path: Path, check: str, switch: str
) -> None:
    chosen = load(find_module(load_roadmap(Clone.here().root), "redis/05"))
    checks = tmp_path / "checks.py"
    checks.write_text(f"{chosen.checks.read_text()}\n{dedent(switch)}")
    asked = request(chosen, chosen.reference, tmp_path, seed=1, only=[check])
    judged = [event for event in warm.grade(_with(asked, checks)) if isinstance(event, Judged)]
    assert [(one.check, one.verdict) for one in judged] == [(check, Verdict.ERROR)], judged


def _with(asked: RunRequest, checks: Path) -> RunRequest:
    import msgspec

    return msgspec.structs.replace(asked, checks=str(checks))
