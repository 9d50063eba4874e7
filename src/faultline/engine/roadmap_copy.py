"""The learner's own copy of the roadmap page, with every Status filled in."""

import itertools
import re
from pathlib import Path

from faultline.engine.atomic_write import write_atomically
from faultline.engine.errors import BadRoadmap
from faultline.engine.progress import Progress
from faultline.engine.roadmap import Roadmap
from faultline.engine.statuses import TopicStatus, topic_status

_LABELS = "|".join(re.escape(status.label) for status in TopicStatus)
_ROW = re.compile(rf"^(\| (\d+) +\|[^|]*\| )(?:{_LABELS})( *\|)")
_HEADING = re.compile(r"^### ((?:\d\N{VARIATION SELECTOR-16}?\N{COMBINING ENCLOSING KEYCAP})+|\N{KEYCAP TEN}) ")
_LINE = re.compile(rf"^(\*\*Status:\*\* )(?:{_LABELS})( \|)")
_TICKED = re.compile(r"^- \[[xX]\] (.*)")


def write_copy(roadmap: Roadmap, progress: Progress, root: Path) -> Path:
    """Write the copy into the learner's workspace and return its path.

    Boxes that the learner ticked stay ticked. Where anything else of an older copy would be lost, that copy
    is kept beside the new one as README.md.1, .2, and so on.
    """
    source = root / "sandbox" / "learning-roadmap" / "README.md"
    target = root / "workspace" / "learning-roadmap" / "README.md"
    try:
        text = source.read_text("utf-8").replace("](../", "](../../sandbox/")
        old = target.read_text("utf-8") if target.exists() else ""
    except OSError as error:
        raise BadRoadmap(f"{error.filename} cannot be read: {error.strerror}; restore it with git checkout") from error
    statuses = {topic.number: topic_status(topic, progress) for topic in roadmap.topics}
    new = fill(with_ticks(text, old), statuses)
    pending = dict.fromkeys(statuses, TopicStatus.PENDING)
    if old and fill(old, pending) != fill(new, pending):
        write_atomically(_kept(target), old)
    write_atomically(target, new)
    return target


def fill(text: str, statuses: dict[int, TopicStatus]) -> str:
    """The page with the status of each topic, by its number, in the tracker's rows and under its heading."""
    lines: list[str] = []
    under = 0
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading:
            under = _number(heading[1])
        row = _ROW.match(line)
        number = int(row[2]) if row else under
        found = row or _LINE.match(line)
        if found and number in statuses:
            label = statuses[number].label
            lines.append(f"{found[1]}{label}{found[found.re.groups]}{line[found.end() :]}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def with_ticks(text: str, old: str) -> str:
    """The page with those boxes ticked that are ticked in `old`."""
    ticked = {match[1] for match in map(_TICKED.match, old.splitlines()) if match}
    return re.sub(r"(?m)^- \[ \] (.*)$", lambda box: f"- [{'x' if box[1] in ticked else ' '}] {box[1]}", text)


def _number(keycaps: str) -> int:
    return 10 if keycaps == "\N{KEYCAP TEN}" else int("".join(filter(str.isdecimal, keycaps)))


def _kept(path: Path) -> Path:
    """The first name beside `path` that is free."""
    numbers = itertools.count(1)
    return next(kept for number in numbers if not (kept := path.with_name(f"{path.name}.{number}")).exists())
