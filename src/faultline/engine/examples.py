"""What `./lab run` runs: a module's example, or the larger one of a topic."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from faultline.engine import exercise
from faultline.engine.errors import BadModule
from faultline.engine.module_names import find_module
from faultline.engine.roadmap import Roadmap, Topic


@dataclass(frozen=True, slots=True)
class Example:
    """A program that asserts what it prints, and how many of which component it finds in its environment."""

    path: Path
    servers: Mapping[str, int]


class _TopicExample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str  # in the topic's folder
    servers: dict[str, int] = {}


class _TopicToml(msgspec.Struct, frozen=True):
    example: _TopicExample | None = None


def find_example(roadmap: Roadmap, name: str) -> Example:
    """The example of the module or topic that is called like this.

    Raises `UnknownName`, `NotBuilt`, or `BadModule` where it is missing.
    """
    topic = next((topic for topic in roadmap.topics if name in {topic.id, topic.folder}), None)
    if topic:
        found = _of_topic(topic)
    else:
        chosen = exercise.load(find_module(roadmap, name))
        found = Example(chosen.module.path / "example.py", chosen.toml.example)
    if not found.path.is_file():
        raise BadModule(f"{found.path} is missing; restore it with git checkout")
    return found


def _of_topic(topic: Topic) -> Example:
    path = topic.path / "topic.toml"
    try:
        stated = msgspec.toml.decode(path.read_bytes(), type=_TopicToml).example if path.is_file() else None
    except msgspec.DecodeError as error:
        raise BadModule(f"{path}: {error}; correct it there, or restore it with git checkout") from error
    if stated is None:
        raise BadModule(f"{topic.id} has no example of its own; its modules have: ./lab run {topic.id}/01")
    return Example(topic.path / stated.file, stated.servers)
