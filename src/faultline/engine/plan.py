"""The roadmap in weeks: from a start date, moved on by what was really passed.

    planned   1 ✅   2 🔲   3 🔲   4 🔲          today is in week 4
    now       1 ✅                 4 🔲   5 🔲   6 🔲   two weeks late

A week's share of a topic is a portion, and moves as one. Portions never overtake each other, and no two that are
left share a week of a track. A learner who is early keeps the weeks: the lead is a reserve, the end stays.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta

from faultline.engine.progress import Progress
from faultline.engine.roadmap import Module, Roadmap, Topic, Track, planned_weeks
from faultline.engine.statuses import ModuleStatus, module_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """What one week holds of one topic; weeks count from 1, `planned` as at first and `week` as it stands now."""

    topic: Topic
    part: int
    modules: tuple[Module, ...]
    statuses: tuple[ModuleStatus, ...]
    planned: int
    week: int

    @property
    def done(self) -> bool:
        """Whether every module of it is passed."""
        return set(self.statuses) == {ModuleStatus.PASSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackPlan:
    """One track's portions in order; `weeks_late` is how much later its last one comes, negative when early.

    Early are only whole weeks that were passed before their time.
    """

    track: Track
    portions: tuple[Portion, ...]
    weeks_late: int

    @property
    def last_week(self) -> int:
        """The week that the track ends with."""
        return max(portion.week for portion in self.portions)

    @property
    def passed(self) -> int:
        """How many modules are passed."""
        return sum(portion.statuses.count(ModuleStatus.PASSED) for portion in self.portions)

    @property
    def total(self) -> int:
        """How many modules there are."""
        return sum(len(portion.modules) for portion in self.portions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The tracks from one Monday on, as they stand `today`."""

    start: date
    today: date
    tracks: tuple[TrackPlan, ...]
    estimate: tuple[int, int]

    @property
    def this_week(self) -> int:
        """The number of today's week; below 1 before the start."""
        return _week_of(self.today, self.start)

    @property
    def last_week(self) -> int:
        """The week that the plan ends with."""
        return max(track.last_week for track in self.tracks)

    def monday(self, week: int) -> date:
        """The first day of a week."""
        return self.start + timedelta(weeks=week - 1)

    def sunday(self, week: int) -> date:
        """The last day of a week."""
        return self.monday(week) + timedelta(days=6)

    def weeks(self) -> Iterator[tuple[int, tuple[Portion, ...]]]:
        """Every week that holds something, in order, with its portions track by track."""
        portions = [portion for track in self.tracks for portion in track.portions]
        for week in sorted({portion.week for portion in portions}):
            yield week, tuple(portion for portion in portions if portion.week == week)


def make_plan(roadmap: Roadmap, progress: Progress, *, tracks: Collection[Track], start: date, today: date) -> Plan:
    """The plan of these tracks from `start`, which is a Monday, as far as `progress` lets it stand `today`."""
    this_week = _week_of(today, start)
    planned = (_track(roadmap, progress, track, this_week) for track in tracks)
    return Plan(start=start, today=today, tracks=tuple(planned), estimate=roadmap.plan.total)


def _week_of(day: date, start: date) -> int:
    return (day - start).days // 7 + 1


def _track(roadmap: Roadmap, progress: Progress, track: Track, this_week: int) -> TrackPlan:
    planned = [portion for topic, first, last in _spans(roadmap, track) for portion in _cut(topic, first, last)]
    portions: list[Portion] = []
    free = this_week
    for topic, part, week, modules in planned:
        statuses = tuple(module_status(module, progress) for module in modules)
        portion = Portion(topic=topic, part=part, modules=modules, statuses=statuses, planned=week, week=week)
        if not portion.done:
            portion = replace(portion, week=max(week, free))
            free = portion.week + 1
        portions.append(portion)
    return TrackPlan(track=track, portions=tuple(portions), weeks_late=_weeks_late(portions, this_week))


def _spans(roadmap: Roadmap, track: Track) -> Iterator[tuple[Topic, int, int]]:
    """The track's topics with first and last week, in the roadmap's order."""
    free = 1
    for topic in roadmap.topics:
        if topic.track == track:
            first, last = planned_weeks(topic, roadmap.plan, free)
            free = last + 1
            yield topic, first, last


def _cut(topic: Topic, first: int, last: int) -> Iterator[tuple[Topic, int, int, tuple[Module, ...]]]:
    """The topic's modules dealt evenly to its weeks, in order: part, week and modules of each."""
    count, weeks = len(topic.modules), last - first + 1
    for part in range(weeks):
        modules = tuple(m for place, m in enumerate(topic.modules) if place * weeks // count == part)
        if modules:
            yield topic, part + 1, first + part, modules


def _weeks_late(portions: list[Portion], this_week: int) -> int:
    left = [portion for portion in portions if not portion.done]
    if left and left[-1].week > left[-1].planned:
        return left[-1].week - left[-1].planned
    due = left[0].planned if left else portions[-1].planned + 1
    return -max(due - 1 - max(this_week, 0), 0)
