"""From the name that somebody typed to the module or topic that is meant."""

import re
from collections.abc import Iterable
from pathlib import Path

from faultline.engine.errors import UnknownName
from faultline.engine.roadmap import Module, Roadmap, Topic

_SEPARATORS = re.compile(r"[/\\\s]+")
_JOINED = re.compile(r"(.+?)[-_.:#]?(\d{1,2})")  # redis05, redis-5, 1.5
_NUMBERED = re.compile(r"(\d\d)-(.+)")  # a module's folder; a capstone's has no number
_CAPSTONES = "exercises"  # the folder of a topic that its capstone is in


def find_module(roadmap: Roadmap, name: str) -> Module:
    """The module meant by `redis/5`, `redis/05-distributed-locks`, `1.5`, `distributed-locks` or a path.

    A topic's capstone is meant by `redis/flash-sale`, `flash-sale` or a path.

    Raises `UnknownName` with the nearest names. A name that starts with a dot is a path from the working
    directory.
    """
    parts = [part for part in _parts(name) if part != _CAPSTONES]
    for before in range(len(parts) - 1, -1, -1):  # the last match: a clone may lie in a folder called redis/05
        module = _module(roadmap, parts[before], parts[before + 1 : before + 2])
        if module:
            return module
    return _by_slug(roadmap, name, parts)


def find_topic(roadmap: Roadmap, name: str) -> Topic:
    """The topic meant by its id, folder, number, title or a path; raises `UnknownName` with the nearest."""
    found = _topic_called(roadmap, name)
    if found:
        return found
    raise UnknownName(f"there is no topic {name!r}; {_nearest(name, _all_topic_names(roadmap), _topics(roadmap))}")


def _topic_called(roadmap: Roadmap, name: str) -> Topic | None:
    """The topic with this name or, in a path, with this folder: there a number may be a module's."""
    whole = " ".join(name.lower().split())
    for topic in roadmap.topics:
        if whole in _topic_names(topic):
            return topic
    parts = _parts(name)
    return next((topic for topic in roadmap.topics if {topic.id, topic.folder}.intersection(parts)), None)


def _parts(name: str) -> list[str]:
    path = str(Path(name).resolve()) if name.startswith(".") else name
    return [part for part in _SEPARATORS.split(path.lower()) if part]


def _topic_names(topic: Topic) -> tuple[str, ...]:
    return (topic.id, topic.folder, str(topic.number), f"{topic.number:02}", topic.title.lower())


def _module(roadmap: Roadmap, first: str, rest: list[str]) -> Module | None:
    """The module that two neighbouring parts of a name mean, or one part that joins both."""
    pairs = [(first, second) for second in rest]
    joined = _JOINED.fullmatch(first)
    if joined:
        pairs.append((joined[1], joined[2]))
    for left, right in pairs:
        for topic in roadmap.topics:
            if left in _topic_names(topic):
                return next((module for module in topic.exercises if _is_called(module, right)), None)
    return None


def _is_called(module: Module, name: str) -> bool:
    numbered = _NUMBERED.fullmatch(module.folder)
    return name in _names(module) or (numbered is not None and name.isdecimal() and int(name) == int(numbered[1]))


def _names(module: Module) -> set[str]:
    """The folder's name, with its number and without."""
    numbered = _NUMBERED.fullmatch(module.folder)
    return {module.folder, numbered[2]} if numbered else {module.folder}


def _by_slug(roadmap: Roadmap, name: str, parts: list[str]) -> Module:
    """The only module whose folder is called like the last part."""
    last = parts[-1] if parts else ""
    found = [module for module in roadmap.exercises if last in _names(module)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownName(f"{name!r} may be {_either(module.id for module in found)}; name one of them")
    topic = _topic_called(roadmap, name)
    if topic and not last.isdecimal():
        ends = f"{topic.modules[0].id} to {topic.modules[-1].id}"
        raise UnknownName(f"{name!r} is a topic; name a module of it, {ends}")
    names = {spelling: module.id for module in roadmap.exercises for spelling in _spellings(module)}
    raise UnknownName(f"there is no module {name!r}; {_nearest(name, names, '`./lab roadmap` lists the topics')}")


def _spellings(module: Module) -> tuple[str, ...]:
    topic = module.id.partition("/")[0]
    return (module.id, f"{topic}/{module.folder}", *_names(module))


def _all_topic_names(roadmap: Roadmap) -> dict[str, str]:
    return {spelling: topic.id for topic in roadmap.topics for spelling in _topic_names(topic) if len(spelling) > 2}


def _topics(roadmap: Roadmap) -> str:
    return f"the topics are {', '.join(topic.id for topic in roadmap.topics)}"


def _nearest(name: str, known: dict[str, str], otherwise: str) -> str:
    """The names most like this one, as a question; `otherwise` where none is near."""
    from difflib import get_close_matches  # only an error needs it, and every verb would wait for it

    near = dict.fromkeys(known[match] for match in get_close_matches(name.lower(), known, n=6))
    return f"did you mean {_either(list(near)[:3])}?" if near else otherwise


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
