"""The roadmap's picture: both tracks as boxes, two abreast, with where the learner stands in each."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from faultline.cli.columns import cells, pad
from faultline.engine.progress import Progress
from faultline.engine.roadmap import Roadmap, Topic
from faultline.engine.statuses import topic_status, totals

_ROWS = 2  # lines for a topic's name in its box


def learning_path(roadmap: Roadmap, progress: Progress, *, width: int) -> list[str]:
    """The lines of the picture, at most `width` columns wide; 80 is enough."""
    box = min((width - 4) // 4, 24)
    half = 2 * box + 1
    back = [topic for topic in roadmap.topics if topic.track == "backend" and not topic.advanced]
    front = [topic for topic in roadmap.topics if topic.track == "frontend" and not topic.advanced]
    completed = [f"✅ {topic.picture}" for topic in roadmap.completed]
    left = _track(["BACKEND", "(Microservices)", *completed], back, progress, box=box)
    right = _track(["FRONTEND", "(Micro-Frontends)", *[""] * len(completed)], front, progress, box=box)
    right += ["", *_advanced(roadmap, progress)]
    pairs = zip_longest(left, right, fillvalue="")
    return [f"{pad(one, half)}  {other}".rstrip() for one, other in pairs]


def _track(head: Sequence[str], topics: Sequence[Topic], progress: Progress, *, box: int) -> list[str]:
    """One track: its head, then its topics two by two, an arrow from each to the one below it."""
    half = 2 * box + 1
    middle, left, right = half // 2, (box - 1) // 2, half - box + (box - 1) // 2
    lines = [_centred(text, half) for text in head]
    fork = [" "] * half
    fork[left : right + 1] = "┌" + "─" * (right - left - 1) + "┐"
    fork[middle] = "┴"
    lines += [_centred("│", half), "".join(fork), _marks("▼", (left, right), half)]
    pairs = [topics[start : start + 2] for start in range(0, len(topics), 2)]
    for row, pair in enumerate(pairs):
        below = pairs[row + 1] if row + 1 < len(pairs) else ()
        boxes = [_box(topic, progress, box, leads_on=place < len(below)) for place, topic in enumerate(pair)]
        lines += [" ".join(parts) for parts in zip(*boxes, strict=True)]
        if below:
            lines.append(_marks("▼", (left, right)[: len(below)], half))
    return lines


def _box(topic: Topic, progress: Progress, width: int, *, leads_on: bool) -> list[str]:
    inner = width - 3
    name = textwrap.wrap(f"{topic.number}. {topic.picture}", inner, subsequent_indent=" " * len(f"{topic.number}. "))
    text = [*name, *[""] * (_ROWS - len(name)), _standing(topic, progress)]
    bottom = "─" * (width - 2)
    if leads_on:
        stem = (width - 1) // 2 - 1  # where the arrow below starts, inside the corner
        bottom = f"{bottom[:stem]}┬{bottom[stem + 1 :]}"
    return [f"┌{'─' * (width - 2)}┐", *(f"│ {pad(line, inner)}│" for line in text), f"└{bottom}┘"]


def _standing(topic: Topic, progress: Progress) -> str:
    counted = totals(topic, progress)
    return f"{topic_status(topic, progress).sign} {counted.passed}/{counted.modules} passed"


def _advanced(roadmap: Roadmap, progress: Progress) -> list[str]:
    later = {f"{topic.number}. {topic.picture}": topic for topic in roadmap.topics if topic.advanced}
    names = max(map(cells, later), default=0)
    rows = [f"{pad(name, names)}  {_standing(topic, progress)}" for name, topic in later.items()]
    return ["ADVANCED (Later)", "────────────────", *rows] if rows else []


def _centred(text: str, width: int) -> str:
    return " " * ((width - cells(text)) // 2) + text


def _marks(mark: str, places: Sequence[int], width: int) -> str:
    return "".join(mark if place in places else " " for place in range(width))
