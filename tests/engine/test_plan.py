"""The plan follows the roadmap's weeks, and moves on by what was really passed."""

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from faultline.engine.errors import BadRoadmap
from faultline.engine.plan import Plan, TrackPlan, make_plan
from faultline.engine.progress import ModuleProgress, Progress
from faultline.engine.roadmap import Roadmap, Track, load

ROOT = Path(__file__).parents[2]
START = date(2027, 1, 4)
NOON = datetime(2027, 1, 5, 12, tzinfo=UTC)
BACKEND: tuple[Track, ...] = ("backend",)


@pytest.fixture
def roadmap() -> Roadmap:
    """The real one, as if every module were built."""
    real = load(ROOT)
    topics = tuple(
        msgspec.structs.replace(
            topic, modules=tuple(msgspec.structs.replace(module, built=True) for module in topic.modules)
        )
        for topic in real.topics
    )
    return Roadmap(real.completed, topics, real.plan)


def plan(roadmap: Roadmap, passed: Collection[str] = (), *, week: int = 1, tracks: Collection[Track] = BACKEND) -> Plan:
    done = ModuleProgress(tries=1, passed_at=NOON, touched_at=NOON)
    today = START + timedelta(weeks=week - 1, days=6)  # the last day of the week is still that week
    return make_plan(roadmap, Progress(dict.fromkeys(passed, done)), tracks=tracks, start=START, today=today)


def of_weeks(track: TrackPlan, *planned: int) -> list[str]:
    return [module.id for portion in track.portions if portion.planned in planned for module in portion.modules]


def weeks(track: TrackPlan) -> list[int]:
    return [portion.week for portion in track.portions]


def test_the_weeks_are_the_roadmaps(roadmap: Roadmap) -> None:
    spans: dict[str, list[int]] = {}
    for track in plan(roadmap, tracks=("backend", "frontend")).tracks:
        for portion in track.portions:
            spans.setdefault(portion.topic.id, []).append(portion.planned)

    assert {topic: (min(found), max(found)) for topic, found in spans.items()} == {
        "redis": (1, 2),
        "resilience": (3, 4),
        "observability": (5, 6),
        "saga": (7, 9),
        "search": (10, 10),
        "gateway": (11, 11),
        "events": (12, 14),
        "grpc": (15, 15),
        "k8s": (16, 17),
        "security": (18, 19),
        "mfe": (1, 2),
        "federation": (3, 3),
        "mfe-comms": (4, 5),
        "mfe-deploy": (6, 6),
    }


def test_every_module_is_planned_once_and_in_order(roadmap: Roadmap) -> None:
    planned = plan(roadmap, tracks=("backend", "frontend"))
    shown = [module.id for track in planned.tracks for portion in track.portions for module in portion.modules]

    assert shown == [module.id for module in roadmap.modules]
    assert [len(portion.modules) for portion in planned.tracks[0].portions[6:9]] == [3, 3, 2]
    assert planned.estimate[0] <= planned.last_week <= planned.estimate[1]
    assert planned.sunday(19) == date(2027, 5, 16)


def test_what_lies_behind_moves_on_and_everything_after_it_by_as_much(roadmap: Roadmap) -> None:
    first = of_weeks(plan(roadmap).tracks[0], 1)
    late = plan(roadmap, first, week=4).tracks[0]

    assert weeks(late) == [1, *range(4, 22)]
    assert (late.weeks_late, late.last_week, late.passed) == (2, 21, 4)


def test_one_module_left_of_a_week_behind_keeps_the_week_open(roadmap: Roadmap) -> None:
    first = of_weeks(plan(roadmap).tracks[0], 1)
    assert plan(roadmap, first[:-1], week=2).tracks[0].weeks_late == 1


def test_the_current_week_is_not_late_before_it_is_over(roadmap: Roadmap) -> None:
    assert plan(roadmap, week=1).tracks[0].weeks_late == 0
    assert plan(roadmap, week=2).tracks[0].weeks_late == 1


def test_a_gap_takes_the_delay_up(roadmap: Roadmap) -> None:
    """Weeks 2 to 4 are passed ahead: what is left of week 1 takes a free one, and the rest stays."""
    ahead = of_weeks(plan(roadmap).tracks[0], 2, 3, 4)
    moved = plan(roadmap, ahead, week=3).tracks[0]

    assert weeks(moved) == [3, *range(2, 20)]
    assert moved.weeks_late == 0


@pytest.mark.parametrize(("week", "early"), [(-3, 3), (0, 3), (1, 2), (2, 1), (3, 0)])
def test_early_are_the_whole_weeks_passed_before_their_time(roadmap: Roadmap, week: int, early: int) -> None:
    done = of_weeks(plan(roadmap).tracks[0], 1, 2, 3)
    ahead = plan(roadmap, done, week=week).tracks[0]

    assert ahead.weeks_late == -early
    assert weeks(ahead) == list(range(1, 20))


def test_tracks_move_apart(roadmap: Roadmap) -> None:
    front = of_weeks(plan(roadmap, tracks=("frontend",)).tracks[0], 1, 2)
    both = plan(roadmap, front, week=3, tracks=("backend", "frontend"))
    assert [track.weeks_late for track in both.tracks] == [2, 0]


def test_all_passed_is_done_however_late_it_is(roadmap: Roadmap) -> None:
    everything = [module.id for module in roadmap.modules]
    done = plan(roadmap, everything, week=30).tracks[0]
    assert (done.weeks_late, done.last_week, done.passed) == (0, 19, done.total)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("total = [16, 20]", "total = [20, 16]", "plan.total is at least 20"),
        ("saga = [7, 9]", "sagas = [7, 9]", "'sagas', which is no topic"),
        ("saga = [7, 9]", "saga = [6, 9]", "plan.topics.saga is week 6 to 9, but week 7"),
        ("saga = [7, 9]", "saga = [9, 7]", "plan.topics.saga is week 9 to 7"),
        ("saga = [7, 9]", "saga = [0, 9]", "plan.topics"),
        ("[plan]\n", "[plan]\nmore = 1\n", "unknown field `more`"),
    ],
)
def test_wrong_weeks_are_refused_where_they_stand(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (ROOT / "sandbox" / "roadmap.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "roadmap.toml").write_text(text.replace(old, new))

    with pytest.raises(BadRoadmap) as caught:
        load(tmp_path)
    assert said in str(caught.value)
