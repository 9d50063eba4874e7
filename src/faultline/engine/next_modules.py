"""What to learn next: one module for each track."""

from dataclasses import dataclass
from datetime import UTC, datetime

from faultline.engine.progress import Progress
from faultline.engine.roadmap import Module, Roadmap, Topic, Track
from faultline.engine.statuses import ModuleStatus, module_status

TRACKS: tuple[Track, ...] = ("backend", "frontend")
_RANK = {"high": 0, "medium": 1, "low": 2}
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextModule:
    """One track's next step; `module` is None when nothing that is built is left to pass.

    `skipped` are modules that would come before it and are not built yet.
    """

    track: Track
    module: Module | None
    begun: bool
    skipped: tuple[Module, ...]

    @property
    def command(self) -> str | None:
        """The one command to type."""
        if self.module is None:
            return None
        return f"./lab {'check' if self.begun else 'start'} {self.module.id}"


def next_modules(roadmap: Roadmap, progress: Progress) -> tuple[NextModule, ...]:
    """The next module of each track, back end first.

    What the learner began last and has not passed comes first. After that: topics after their prerequisites,
    by priority and then by number, and their modules in order, a capstone last. What is not built is skipped.
    """
    return tuple(_next(roadmap, progress, track) for track in TRACKS)


def _next(roadmap: Roadmap, progress: Progress, track: Track) -> NextModule:
    ordered = [module for topic in _in_order(roadmap, track) for module in topic.exercises]
    open_modules = [module for module in ordered if _is_open(module, progress)]
    begun = [module for module in open_modules if progress.of(module.id).begun]
    if begun:
        latest = max(begun, key=lambda module: progress.of(module.id).touched_at or _NEVER)
        return NextModule(track=track, module=latest, begun=True, skipped=())
    module = next(iter(open_modules), None)
    before = ordered[: ordered.index(module)] if module else ordered
    return NextModule(track=track, module=module, begun=False, skipped=tuple(m for m in before if not m.built))


def _in_order(roadmap: Roadmap, track: Track) -> list[Topic]:
    """The track's topics, none before its prerequisites, else by priority and number."""
    waiting = sorted((t for t in roadmap.topics if t.track == track), key=lambda t: (_RANK[t.priority], t.number))
    ordered: list[Topic] = []
    while waiting:
        ids = {topic.id for topic in waiting}
        topic = next(topic for topic in waiting if not ids.intersection(topic.prerequisites))
        waiting.remove(topic)
        ordered.append(topic)
    return ordered


def _is_open(module: Module, progress: Progress) -> bool:
    return module_status(module, progress) in {ModuleStatus.PENDING, ModuleStatus.IN_PROGRESS}
