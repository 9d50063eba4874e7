"""As many runs at once as the processors have room for: by what the machine says, not by a number."""

import pytest

from faultline.engine import load
from faultline.engine.load import LEAST, LOOK, MOST, PROCESSORS, Room

FEW, ALL = LEAST * PROCESSORS, MOST * PROCESSORS


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> "Machine":
    one = Machine()
    monkeypatch.setattr(load, "_times", lambda: (one.passed, one.idle))
    monkeypatch.setattr(load.time, "monotonic", lambda: one.now)
    return one


class Machine:
    """Its processors, and a clock that stands still until it is moved."""

    now, passed, idle = 100.0, 5000, 100

    def goes_on(self, *, idle: float, seconds: float = LOOK) -> None:
        """`idle`: the share of the time in which they had nothing to do."""
        self.now += seconds
        self.passed += 100
        self.idle += round(100 * idle)


def test_so_many_always_may(machine: Machine) -> None:
    room = Room()
    machine.goes_on(idle=0)
    assert all(room.one_more(running) for running in range(FEW))


def test_one_more_may_while_the_processors_have_nothing_to_do(machine: Machine) -> None:
    room = Room()
    machine.goes_on(idle=0.5)
    assert room.one_more(FEW)
    assert not room.one_more(FEW + 1), "it has just begun: nobody knows yet what it takes"
    machine.goes_on(idle=0.5, seconds=LOOK / 2)
    assert not room.one_more(FEW + 1)
    machine.goes_on(idle=0.5)
    assert room.one_more(FEW + 1)
    machine.goes_on(idle=0.1)
    assert not room.one_more(FEW + 2)


def test_more_than_so_many_never_may(machine: Machine) -> None:
    room = Room()
    machine.goes_on(idle=1)
    assert room.most == ALL
    assert not room.one_more(ALL)


def test_who_says_how_many_gets_that(machine: Machine) -> None:
    room = Room(3)
    machine.goes_on(idle=1)
    assert [room.one_more(running) for running in range(5)] == [True, True, True, False, False]
    assert room.most == 3


def test_this_machine_tells_its_times() -> None:
    passed, idle = load._times()
    assert 0 < idle <= passed
