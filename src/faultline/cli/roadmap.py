"""`./lab roadmap`: the tracker and the learning path, filled in by what was really passed."""

import argparse
from collections.abc import Callable
from pathlib import Path

from faultline.cli.columns import table, terminal_width
from faultline.cli.errors import UsageError
from faultline.cli.learning_path import learning_path
from faultline.engine.module_names import find_topic
from faultline.engine.progress import Progress
from faultline.engine.progress_file import ProgressFile
from faultline.engine.roadmap import CompletedTopic, Module, Roadmap, Topic, Track, load, minutes
from faultline.engine.statuses import ModuleStatus, Totals, module_status, topic_status, totals

_PRIORITY = {"high": "🔴 High", "medium": "🟡 Medium", "low": "🟢 Low"}
_TRACKS: dict[Track, str] = {"backend": "Backend (Microservices)", "frontend": "Frontend (Micro-Frontends)"}
_HEAD = ("#", "Topic", "Status", "Priority", "Complexity", "Est. Time")
_SIGNS = {
    ModuleStatus.NOT_BUILT: "  ",
    ModuleStatus.PENDING: "🔲",
    ModuleStatus.IN_PROGRESS: "🔄",
    ModuleStatus.PASSED: "✅",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="show this topic's modules: redis, 1, saga-pattern")
    parser.add_argument("--json", action="store_true", help="print it for a program")
    parser.add_argument("--write", action="store_true", help="write your copy of the roadmap page, statuses filled in")


def run(args: argparse.Namespace, root: Path) -> int:
    """Show the roadmap, or one topic of it."""
    if args.write and (args.topic or args.json):
        raise UsageError("--write writes the whole roadmap; leave out TOPIC and --json")
    roadmap = load(root)
    topic = find_topic(roadmap, args.topic) if args.topic else None
    progress = ProgressFile.of_clone(root).read()
    if args.write:
        _write(roadmap, progress, root)
    elif args.json:
        _print_json(topic_facts(topic, progress) if topic else roadmap_facts(roadmap, progress))
    else:
        lines = _topic_lines(topic, progress, root) if topic else _roadmap_lines(roadmap, progress)
        print("\n".join(lines))
    return 0


def roadmap_facts(roadmap: Roadmap, progress: Progress) -> dict[str, object]:
    """The roadmap for a program."""
    return {
        "totals": _totals_facts(totals(roadmap, progress)),
        "completed_before": [{"id": topic.id, "title": topic.title} for topic in roadmap.completed],
        "topics": [topic_facts(topic, progress) for topic in roadmap.topics],
    }


def topic_facts(topic: Topic, progress: Progress) -> dict[str, object]:
    """One topic for a program."""
    return {
        "id": topic.id,
        "number": topic.number,
        "title": topic.title,
        "folder": f"sandbox/{topic.folder}",
        "track": topic.track,
        "status": topic_status(topic, progress).value,
        "priority": topic.priority,
        "complexity": topic.complexity,
        "weeks": list(topic.weeks),
        "prerequisites": list(topic.prerequisites),
        "totals": _totals_facts(totals(topic, progress)),
        "modules": [_module_facts(module, progress) for module in topic.modules],
        "capstone": topic.capstone and _module_facts(topic.capstone, progress),
    }


def _module_facts(module: Module, progress: Progress) -> dict[str, object]:
    done = progress.of(module.id)
    return {
        "id": module.id,
        "title": module.title,
        "folder": module.folder,
        "status": module_status(module, progress).value,
        "tries": done.tries,
        "hints": done.hints,
        "minutes": minutes(module),
    }


def _totals_facts(counted: Totals) -> dict[str, int]:
    return {
        "modules": counted.modules,
        "built": counted.built,
        "passed": counted.passed,
        "percent": counted.percent,
    }


def _print_json(facts: dict[str, object]) -> None:
    import json  # only --json needs it, and the verb starts in a tenth of a second

    print(json.dumps(facts, ensure_ascii=False, indent=2))


def _write(roadmap: Roadmap, progress: Progress, root: Path) -> None:
    from faultline.engine.roadmap_copy import write_copy  # only --write needs it, and it compiles regexes

    path = write_copy(roadmap, progress, root)
    print(f"wrote {path.relative_to(root)}")


def _roadmap_lines(roadmap: Roadmap, progress: Progress) -> list[str]:
    width = terminal_width()
    lines = ["PROGRESS TRACKER", ""]
    for track, title in _TRACKS.items():
        before = [topic for topic in roadmap.completed if topic.track == track]
        topics = [topic for topic in roadmap.topics if topic.track == track]
        lines += [title, "", *_tracker(before, topics, progress, width=width), ""]
    lines += ["LEARNING PATH", "", *learning_path(roadmap, progress, width=width), ""]
    lines += [
        _sum(totals(roadmap, progress)),
        "./lab roadmap TOPIC shows a topic's modules, ./lab next what to do now.",
    ]
    return lines


def _tracker(before: list[CompletedTopic], topics: list[Topic], progress: Progress, *, width: int) -> list[str]:
    rows = [[*_HEAD, "Modules"]]
    rows += [["✅", topic.title, "✅ COMPLETED", "-", "⭐" * topic.complexity, "-", "-"] for topic in before]
    rows += [_tracker_row(topic, progress) for topic in topics]
    if width < 100:  # the column that the roadmap itself does not have
        rows = [row[:-1] for row in rows]
    return table(rows, width=width, wrapped=1)


def _tracker_row(topic: Topic, progress: Progress) -> list[str]:
    counted = totals(topic, progress)
    return [
        str(topic.number),
        topic.title,
        topic_status(topic, progress).label,
        _PRIORITY[topic.priority],
        "⭐" * topic.complexity,
        _weeks(topic),
        f"{counted.passed} of {counted.modules} passed, {counted.built} built",
    ]


def _topic_lines(topic: Topic, progress: Progress, root: Path) -> list[str]:
    rows = [["", "Module", "Title", "State", "Minutes"]]
    rows += [_module_row(module, progress) for module in topic.exercises]
    facts = [_PRIORITY[topic.priority], "⭐" * topic.complexity, _weeks(topic), _after(topic)]
    return [
        f"{topic.number}. {topic.title}",
        f"{topic_status(topic, progress).label}  {'  '.join(facts)}",
        "",
        *table(rows, width=terminal_width(), wrapped=2),
        "",
        _sum(totals(topic, progress)),
        f"Folder: {topic.path.relative_to(root)}{'' if topic.path.is_dir() else ' (not there yet)'}",
    ]


def _module_row(module: Module, progress: Progress) -> list[str]:
    status = module_status(module, progress)
    taken = minutes(module)
    return [_SIGNS[status], module.id, module.title, _state(module, progress), str(taken) if taken else "-"]


def _state(module: Module, progress: Progress) -> str:
    done = progress.of(module.id)
    tries = f"{done.tries} {'try' if done.tries == 1 else 'tries'}"
    states: dict[ModuleStatus, Callable[[], str]] = {
        ModuleStatus.NOT_BUILT: lambda: "not built yet",
        ModuleStatus.PENDING: lambda: "not started",
        ModuleStatus.IN_PROGRESS: lambda: f"{tries}, not passed" if done.tries else "started",
        ModuleStatus.PASSED: lambda: f"passed, {tries}",
    }
    return states[module_status(module, progress)]()


def _after(topic: Topic) -> str:
    return f"after {', '.join(topic.prerequisites)}" if topic.prerequisites else "no prerequisite topic"


def _weeks(topic: Topic) -> str:
    least, most = topic.weeks
    if least == most:
        return f"{least:g} week{'' if least == 1 else 's'}"
    return f"{least:g}-{most:g} weeks"


def _sum(counted: Totals) -> str:
    return f"{counted.modules} modules: {counted.built} built, {counted.passed} passed ({counted.percent} %)."
