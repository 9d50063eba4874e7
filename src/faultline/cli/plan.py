"""`./lab plan`: the roadmap's weeks from a start date, moved on by what was passed; also for a calendar (RFC 5545)."""

import argparse
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

from faultline.cli.columns import table, terminal_width
from faultline.cli.errors import UsageError
from faultline.engine.atomic_write import write_atomically
from faultline.engine.next_modules import TRACKS
from faultline.engine.plan import Plan, Portion, TrackPlan, make_plan
from faultline.engine.progress import Progress
from faultline.engine.progress_file import ProgressFile
from faultline.engine.roadmap import Module, Roadmap, Track, load
from faultline.engine.statuses import ModuleStatus

_CHOICES: dict[str, tuple[Track, ...]] = {"backend": ("backend",), "frontend": ("frontend",), "parallel": TRACKS}
_SIGNS = {
    ModuleStatus.PASSED: "✅",
    ModuleStatus.IN_PROGRESS: "🔄",
    ModuleStatus.PENDING: "🔲",
    ModuleStatus.NOT_BUILT: "· ",
}
_FARTHEST = 10  # years from today that a start may lie ahead
_FOLD = 75  # octets of a calendar's line, at most


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--start", required=True, metavar="DATE", help="the plan's first Monday, as 2027-01-04")
    parser.add_argument("--track", choices=_CHOICES, default="parallel", help="one track, or both at once (default)")
    parser.add_argument("--ics", type=Path, metavar="FILE", help="write the plan for a calendar; import it again later")
    parser.add_argument("--json", action="store_true", help="print it for a program")


def run(args: argparse.Namespace, root: Path) -> int:
    """Show the plan as it stands today, or write it for a calendar."""
    return run_at(args, root, now=datetime.now(UTC).astimezone())


def run_at(args: argparse.Namespace, root: Path, *, now: datetime) -> int:
    """Show the plan as it stands at `now`, whose own date is today."""
    roadmap, progress, today = load(root), ProgressFile.of_clone(root).read(), now.date()
    tracks = _CHOICES[args.track]
    start = _monday(args.start, today)
    if start < today and not _begun(roadmap, progress, tracks):
        raise UsageError(
            f"--start {start} is in the past and no module of this plan is begun, so there is nothing to move on;"
            f" start on a Monday to come: --start {_next_monday(today)}"
        )
    plan = make_plan(roadmap, progress, tracks=tracks, start=start, today=today)
    if args.ics:
        write_atomically(args.ics, calendar(plan, now=now))
    if args.json:
        import json  # only --json needs it

        print(json.dumps(plan_facts(plan), ensure_ascii=False, indent=2))
    elif args.ics:
        print(f"wrote {args.ics}: {sum(len(track.portions) for track in plan.tracks)} events of a week each")
    else:
        print("\n".join(_lines(plan)))
    return 0


def plan_facts(plan: Plan) -> dict[str, object]:
    """The plan for a program."""
    return {
        "start": str(plan.start),
        "today": str(plan.today),
        "this_week": plan.this_week,
        "last_week": plan.last_week,
        "end": str(plan.sunday(plan.last_week)),
        "roadmap_weeks": list(plan.estimate),
        "tracks": [_track_facts(plan, track) for track in plan.tracks],
        "weeks": [
            {
                "week": week,
                "monday": str(plan.monday(week)),
                "topics": [_portion_facts(portion) for portion in portions],
            }
            for week, portions in plan.weeks()
        ],
    }


def calendar(plan: Plan, *, now: datetime) -> str:
    """The plan as an iCalendar file (RFC 5545), an all-day event of seven days for each topic's week.

    An event's UID depends on nothing but the topic and which of its weeks it is: importing the file again moves
    the events that are there.
    """
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Faultline//lab plan//EN", "CALSCALE:GREGORIAN"]
    for track in plan.tracks:
        for portion in track.portions:
            lines += _event(plan, portion, now)
    return "".join(f"{_folded(line)}\r\n" for line in [*lines, "END:VCALENDAR"])


def _monday(text: str, today: date) -> date:
    try:
        start = date.fromisoformat(text)
    except ValueError:
        start = None
    if start is None or str(start) != text:
        raise UsageError(f"--start {text!r} is no date; write year, month and day: --start {_next_monday(today)}")
    if start.year > today.year + _FARTHEST:
        raise UsageError(f"--start {start} is more than {_FARTHEST} years ahead; try --start {_next_monday(today)}")
    if start.weekday():
        before = start - timedelta(days=start.weekday())
        mondays = (before, before + timedelta(weeks=1))
        usable = [str(monday) for monday in mondays if monday >= today] or map(str, mondays)
        raise UsageError(f"--start {start} is a {start:%A}, and a plan starts on a Monday: try {' or '.join(usable)}")
    return start


def _next_monday(today: date) -> date:
    return today + timedelta(days=-today.weekday() % 7)


def _begun(roadmap: Roadmap, progress: Progress, tracks: Collection[Track]) -> bool:
    topics = (topic for topic in roadmap.topics if topic.track in tracks)
    return any(progress.of(module.id).begun for topic in topics for module in topic.modules)


def _lines(plan: Plan) -> list[str]:
    width = terminal_width()
    rows = [["", "Week", "Monday", "Topic", "Modules", "Remark"]]
    for week, portions in plan.weeks():
        when = [str(week), str(plan.monday(week))]
        for portion in portions:
            for row in _rows(portion, this_week=week == plan.this_week, wide=width >= 100):
                rows.append([row[0], *when, *row[1:]])
                when = ["", ""]
    least, most = plan.estimate
    return [
        f"PLAN from Monday {plan.start}, {' and '.join(track.track for track in plan.tracks)}; today is {plan.today}",
        "",
        *table(rows, width=width, wrapped=3),
        "",
        "✅ passed  🔄 in progress  🔲 not started  ·  not built yet",
        "",
        *(_standing(plan, track) for track in plan.tracks),
        "",
        f"The plan ends on Sunday {plan.sunday(plan.last_week)}, after {plan.last_week} weeks.",
        f"The roadmap says {least}-{most} weeks for both tracks.",
        "./lab next says what to do now, --ics FILE writes the plan for your calendar.",
    ]


def _rows(portion: Portion, *, this_week: bool, wide: bool) -> Iterator[list[str]]:
    """Sign, topic, modules and remark, a row for each run of modules of one status."""
    topic = portion.topic.title if wide else portion.topic.picture
    remarks = ["this week"] if this_week else []
    remarks += [f"from week {portion.planned}"] if portion.week != portion.planned else []
    pairs = zip(portion.modules, portion.statuses, strict=True)
    for status, run in groupby(pairs, key=lambda pair: pair[1]):
        yield [_SIGNS[status], topic, _range([module for module, _ in run]), ", ".join(remarks)]
        topic, remarks = "", []


def _range(modules: list[Module]) -> str:
    first, last = modules[0].id, modules[-1].id
    return first if first == last else f"{first}-{last.partition('/')[2]}"


def _standing(plan: Plan, track: TrackPlan) -> str:
    end = f"ends on {plan.sunday(track.last_week)}, week {track.last_week}"
    name = f"{track.track.capitalize() + ':':<10}"
    return f"{name}{track.passed} of {track.total} passed, {_lateness(track)}; {end}."


def _lateness(track: TrackPlan) -> str:
    weeks = abs(track.weeks_late)
    if not weeks:
        return "on time"
    return f"{weeks} week{'' if weeks == 1 else 's'} {'late' if track.weeks_late > 0 else 'early'}"


def _track_facts(plan: Plan, track: TrackPlan) -> dict[str, object]:
    return {
        "track": track.track,
        "modules": track.total,
        "passed": track.passed,
        "weeks_late": track.weeks_late,
        "last_week": track.last_week,
        "end": str(plan.sunday(track.last_week)),
    }


def _portion_facts(portion: Portion) -> dict[str, object]:
    return {
        "topic": portion.topic.id,
        "title": portion.topic.title,
        "track": portion.topic.track,
        "planned_week": portion.planned,
        "done": portion.done,
        "modules": [
            {"id": module.id, "title": module.title, "status": status.value}
            for module, status in zip(portion.modules, portion.statuses, strict=True)
        ],
    }


def _event(plan: Plan, portion: Portion, now: datetime) -> list[str]:
    pairs = zip(portion.modules, portion.statuses, strict=True)
    todo = "\n".join(f"{module.id} {module.title} ({status.value})" for module, status in pairs)
    done = "✅ " if portion.done else ""
    return [
        "BEGIN:VEVENT",
        f"UID:{portion.topic.id}-{portion.part}@plan.faultline.invalid",
        f"DTSTAMP:{now.astimezone(UTC):%Y%m%dT%H%M%SZ}",
        f"DTSTART;VALUE=DATE:{_compact(plan.monday(portion.week))}",
        f"DTEND;VALUE=DATE:{_compact(plan.monday(portion.week + 1))}",
        f"SUMMARY:{_escaped(f'{done}{portion.topic.title}, {_range(list(portion.modules))}')}",
        f"DESCRIPTION:{_escaped(todo)}",
        "TRANSP:TRANSPARENT",
        "END:VEVENT",
    ]


def _compact(day: date) -> str:
    return day.isoformat().replace("-", "")


def _escaped(text: str) -> str:
    for special in "\\;,":
        text = text.replace(special, f"\\{special}")
    return text.replace("\n", "\\n")


def _folded(line: str) -> str:
    """The line in pieces of at most 75 octets, no character torn; a piece after the first begins with a space."""
    pieces, length = [""], 0
    for character in line:
        octets = len(character.encode())
        if length + octets > _FOLD:
            pieces.append(" ")
            length = 1
        pieces[-1] += character
        length += octets
    return "\r\n".join(pieces)
