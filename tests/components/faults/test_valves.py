"""What each fault decides, on a clock of our own."""

from random import Random

import pytest

from faultline.components.faults import (
    Age,
    Bandwidth,
    BlackHole,
    Cut,
    Fate,
    Fault,
    Latency,
    PartialWrites,
    Reset,
    SlowDrip,
    Valve,
)


def valve(fault: Fault, seed: int = 1) -> Valve:
    made = fault.valve(Random(seed), Age.NEW)
    assert made
    return made


def drain(valve: Valve, size: int, *, late: float = 0.0, start: float = 100.0) -> list[tuple[float, int]]:
    """When how many bytes of one chunk leave, with timers that fire so late."""
    now, left, log = start, size, list[tuple[float, int]]()
    while left:
        ruling = valve.rule(now)
        if ruling.at > now:
            now = ruling.at + late
            continue
        count = min(left, ruling.most or left)
        valve.passed(count, now)
        log.append((now - start, count))
        left -= count
    return log


def test_the_same_seed_gives_the_same_delays() -> None:
    one, same, other = (valve(Latency(0.2, jitter=0.05), seed) for seed in (7, 7, 8))

    delays = [one.delay() for _ in range(50)]

    assert delays == [same.delay() for _ in range(50)]
    assert delays != [other.delay() for _ in range(50)]
    assert all(0.15 <= delay <= 0.25 for delay in delays)
    assert max(delays) - min(delays) > 0.05


def test_jitter_never_makes_a_delay_negative() -> None:
    late = valve(Latency(0.01, jitter=0.1))

    assert min(late.delay() for _ in range(200)) == 0.0


@pytest.mark.parametrize("rate", [50, 1_000, 1_000_000])
def test_bandwidth_keeps_to_its_rate(rate: int) -> None:
    seconds, _ = drain(valve(Bandwidth(rate)), 3 * rate)[-1]

    assert seconds == pytest.approx(3.0, rel=0.02)


def test_bandwidth_makes_up_for_late_timers() -> None:
    seconds, _ = drain(valve(Bandwidth(1_000)), 3_000, late=0.004)[-1]

    assert seconds == pytest.approx(3.0, rel=0.02)


def test_bandwidth_saves_up_two_portions_at_most_while_idle() -> None:
    narrow = valve(Bandwidth(1_000))
    drain(narrow, 1_000)

    at_once = [count for at, count in drain(narrow, 1_000, start=5_000.0) if at == 0]

    assert sum(at_once) == 20


def test_a_drip_is_so_many_bytes_every_so_many_seconds() -> None:
    assert drain(valve(SlowDrip(3, every=2.0)), 8) == [(0, 3), (2, 3), (4, 2)]


def test_partial_writes_are_small_and_the_same_for_the_same_seed() -> None:
    sizes = [count for _, count in drain(valve(PartialWrites(5), seed=3), 100)]

    assert sum(sizes) == 100
    assert set(sizes) == {1, 2, 3, 4, 5}
    assert sizes == [count for _, count in drain(valve(PartialWrites(5), seed=3), 100)]


@pytest.mark.parametrize(("fault", "fate"), [(Cut(5), Fate.CUT), (Reset(after=5), Fate.RESET)])
def test_a_budget_ends_in_the_faults_own_way(fault: Fault, fate: Fate) -> None:
    budget = valve(fault)

    assert budget.rule(0).most == 5
    budget.passed(5, 0)

    assert budget.rule(0).fate is fate


def test_a_reset_at_once_needs_no_valve_and_one_after_bytes_no_haste() -> None:
    assert Reset().valve(Random(1), Age.NEW) is None
    assert Reset().fate_of(Age.OPEN) is Reset().fate_of(Age.NEW) is Fate.RESET
    assert Reset(after=3).fate_of(Age.OPEN) is Fate.PASS
    only_new = frozenset({Age.NEW})
    assert Reset(ages=only_new).fate_of(Age.OPEN) is Fate.PASS
    assert Reset(after=3, ages=only_new).valve(Random(1), Age.OPEN) is None


def test_a_black_hole_swallows() -> None:
    assert valve(BlackHole()).rule(0).fate is Fate.SWALLOW


@pytest.mark.parametrize(
    "make",
    [
        lambda: Latency(-1),
        lambda: Latency(1, jitter=-1),
        lambda: Bandwidth(0),
        lambda: SlowDrip(0, every=1),
        lambda: SlowDrip(1, every=0),
        lambda: PartialWrites(0),
        lambda: Cut(-1),
        lambda: Reset(after=-1),
    ],
)
def test_senseless_faults_are_refused_when_made(make: type[Fault]) -> None:
    with pytest.raises(ValueError, match=r"must|least|may"):
        make()
