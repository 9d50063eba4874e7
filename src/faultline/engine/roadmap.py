"""The roadmap as values: topics and modules as `sandbox/roadmap.toml` lists them, and what of it is built."""

from math import ceil
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from faultline.engine.errors import BadRoadmap

Track = Literal["backend", "frontend"]
Priority = Literal["high", "medium", "low"]
_T = TypeVar("_T")

_Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
_Folder = Annotated[str, msgspec.Meta(pattern=r"^\d\d-[a-z0-9]+(-[a-z0-9]+)*$")]
_Document = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*\.md$")]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Stars = Annotated[int, msgspec.Meta(ge=1, le=5)]
_Weeks = Annotated[float, msgspec.Meta(gt=0)]
_WeekNumber = Annotated[int, msgspec.Meta(ge=1, le=99)]


class CompletedTopic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A topic that the learner had behind them before this roadmap: outside all totals."""

    id: _Slug
    title: _Text
    track: Track
    complexity: _Stars
    picture: _Text


class _ExerciseEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    folder: _Slug  # a capstone's, in the topic's `exercises`
    title: _Text
    about: str = ""
    documents: tuple[_Document, ...] = ()


class _ModuleEntry(_ExerciseEntry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    folder: _Folder


class Module(_ModuleEntry, frozen=True, kw_only=True):
    """One module of the roadmap, or a topic's capstone, which has its shape; whether the folder is there yet or not."""

    id: str
    path: Path
    built: bool


class _TopicEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: _Slug
    number: int
    title: _Text
    folder: _Slug
    track: Track
    priority: Priority
    complexity: _Stars
    weeks: tuple[_Weeks, _Weeks]
    picture: _Text
    advanced: bool = False
    prerequisites: tuple[_Slug, ...] = ()
    components: tuple[_Slug, ...] = ()
    modules: tuple[_ModuleEntry, ...]
    capstone: _ExerciseEntry | None = None


class Topic(_TopicEntry, frozen=True, kw_only=True):
    """One of the 14 topics, with its modules in order."""

    path: Path
    modules: tuple[Module, ...]
    capstone: Module | None = None

    @property
    def exercises(self) -> tuple[Module, ...]:
        """The modules, and the capstone after them: all that can be started and graded."""
        return (*self.modules, self.capstone) if self.capstone else self.modules


class Timeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First and last week of the topics that the roadmap puts into weeks, and how many weeks it expects in all."""

    total: tuple[_WeekNumber, _WeekNumber]
    topics: dict[_Slug, tuple[_WeekNumber, _WeekNumber]]


class Roadmap(msgspec.Struct, frozen=True):
    """Everything there is to learn, in the roadmap's order."""

    completed: tuple[CompletedTopic, ...]
    topics: tuple[Topic, ...]
    plan: Timeline

    @property
    def modules(self) -> tuple[Module, ...]:
        """Every module, in the roadmap's order; what is counted and planned."""
        return tuple(module for topic in self.topics for module in topic.modules)

    @property
    def exercises(self) -> tuple[Module, ...]:
        """Every module, and each topic's capstone after its modules."""
        return tuple(module for topic in self.topics for module in topic.exercises)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topics: tuple[_TopicEntry, ...]
    plan: Timeline
    completed: tuple[CompletedTopic, ...] = ()


class _ModuleToml(msgspec.Struct, frozen=True):
    minutes: Annotated[int, msgspec.Meta(gt=0)] | None = None


def load(root: Path) -> Roadmap:
    """Read the roadmap of the clone at `root`, or raise `BadRoadmap` naming file and key."""
    sandbox = root / "sandbox"
    path = sandbox / "roadmap.toml"
    file = _decode(path, _File)
    wrong = _contradiction(file) or _wrong_week(file)
    if wrong:
        raise BadRoadmap(f"{path}: {wrong}; correct it there, or restore it with git checkout")
    return Roadmap(file.completed, tuple(_topic(entry, sandbox) for entry in file.topics), file.plan)


def planned_weeks(topic: _TopicEntry, timeline: Timeline, free: int) -> tuple[int, int]:
    """The first and last week of a topic: the timeline's, else from week `free` on as long as it takes at most."""
    return timeline.topics.get(topic.id, (free, free + ceil(topic.weeks[1]) - 1))


def minutes(module: Module) -> int | None:
    """How long the module says it takes; None while it is not built or does not say."""
    return _decode(module.path / "module.toml", _ModuleToml).minutes if module.built else None


def _decode(path: Path, shape: type[_T]) -> _T:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=shape)
    except FileNotFoundError:
        raise BadRoadmap(f"{path} is missing; restore it with git checkout") from None
    except OSError as error:
        raise BadRoadmap(f"{path} cannot be read: {error.strerror}; make it readable") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRoadmap(f"{path}: {_plain(str(error))}; correct it there, or restore it with git checkout") from error


def _plain(complaint: str) -> str:
    """A complaint of msgspec with its JSON path said as a key of the file."""
    message, at, place = complaint.partition(" - at `$.")
    return f"{place.rstrip('`')}: {message}" if at else message


def _contradiction(file: _File) -> str | None:
    """What is wrong with the file as a whole, in one sentence; None when nothing is."""
    known: set[str] = {topic.id for topic in file.completed}
    for number, topic in enumerate(file.topics, start=1):
        here = f"topic {topic.id!r}"
        if topic.id in known:
            return f"{here} is listed twice"
        if topic.number != number:
            return f"{here} has number {topic.number}, but is the {number}. in the file"
        unknown = [name for name in topic.prerequisites if name not in known]
        if unknown:
            return f"{here} has prerequisite {unknown[0]!r}, which is no topic listed before it"
        numbers = [int(module.folder[:2]) for module in topic.modules]
        if numbers != list(range(1, len(numbers) + 1)):
            return f"the module folders of {here} are not numbered 01, 02, 03, …"
        if topic.weeks[0] > topic.weeks[1]:
            return f"{here} takes at least {topic.weeks[0]:g} and at most {topic.weeks[1]:g} weeks"
        known.add(topic.id)
    folders = [topic.folder for topic in file.topics]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    return twice and f"two topics have the folder {twice!r}"


def _wrong_week(file: _File) -> str | None:
    """What is wrong with the plan, in one sentence: each track's weeks rise in the order of its topics."""
    least, most = file.plan.total
    if least > most:
        return f"plan.total is at least {least} and at most {most} weeks"
    unknown = sorted(file.plan.topics.keys() - {topic.id for topic in file.topics})
    if unknown:
        return f"plan.topics names {unknown[0]!r}, which is no topic"
    free = {"backend": 1, "frontend": 1}
    for topic in file.topics:
        first, last = planned_weeks(topic, file.plan, free[topic.track])
        if not free[topic.track] <= first <= last:
            return f"plan.topics.{topic.id} is week {first} to {last}, but week {free[topic.track]} is its track's next"
        free[topic.track] = last + 1
    return None


def _topic(entry: _TopicEntry, sandbox: Path) -> Topic:
    path = sandbox / entry.folder
    modules = tuple(_module(one, f"{entry.id}/{one.folder[:2]}", path / one.folder) for one in entry.modules)
    last = entry.capstone
    capstone = last and _module(last, f"{entry.id}/{last.folder}", path / "exercises" / last.folder)
    return Topic(**{**msgspec.structs.asdict(entry), "path": path, "modules": modules, "capstone": capstone})


def _module(entry: _ExerciseEntry, name: str, path: Path) -> Module:
    built = (path / "module.toml").is_file()
    return Module(**msgspec.structs.asdict(entry), id=name, path=path, built=built)
