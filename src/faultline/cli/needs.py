"""What modules and topics need of this machine, and whether it has that."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from faultline.components import CATALOG
from faultline.components.providers import Absent, Fetchable, Given, Offer
from faultline.engine import exercise
from faultline.engine.roadmap import load


@dataclass(frozen=True, slots=True)
class Room:
    """What is free, in bytes."""

    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class Need:
    """A built module, or what of a topic is still to be built, with one of each component that it names."""

    name: str
    built: bool
    components: tuple[str, ...]
    memory: int
    """Bytes, as the components were measured."""
    disk: int
    """Bytes."""
    fetch: int
    """Bytes of `disk` that have to be fetched yet, or made."""
    why_not: tuple[str, ...]
    """What this machine lacks; nothing when it can run it."""
    unknown: tuple[str, ...]
    """Components that are planned and not in the catalog yet."""


def needs(root: Path, offers: Mapping[str, Offer], room: Room) -> list[Need]:
    """Of each built module and capstone, then of each topic with a module that is not built; in the roadmap's order."""
    roadmap = load(root)
    built = [module for module in roadmap.exercises if module.built]
    planned = [topic for topic in roadmap.topics if not all(module.built for module in topic.modules)]
    return [
        *(_need(module.id, exercise.load(module).toml.components, offers, room, built=True) for module in built),
        *(_need(topic.id, topic.components, offers, room, built=False) for topic in planned),
    ]


def _need(name: str, components: Sequence[str], offers: Mapping[str, Offer], room: Room, *, built: bool) -> Need:
    known = [CATALOG[component] for component in components if component in CATALOG]
    ours = [component for component in known if not isinstance(offers[component.name], Given)]
    memory, disk = (sum(getattr(component, figure) for component in ours) for figure in ("memory", "disk"))
    fetch = sum(component.disk for component in ours if isinstance(offers[component.name], Fetchable))
    why_not = [f"no {component.name} (see above)" for component in known if isinstance(offers[component.name], Absent)]
    if memory > room.memory:
        why_not.append(f"{decimal(room.memory)} of memory are free: close something")
    if fetch > room.disk:
        why_not.append(f"{decimal(room.disk)} of disk are free: make room (./lab clean shows what can go)")
    unknown = tuple(component for component in components if component not in CATALOG)
    return Need(name, built, tuple(components), memory, disk, fetch, tuple(why_not), unknown)


def rows(found: Iterable[Need]) -> list[tuple[str, str, str, str, str, str]]:
    """Mark, name, memory, disk, what is yet to fetch, and the rest in words."""
    return [
        (
            "no" if need.why_not else "--" if need.unknown else "ok",
            need.name,
            decimal(need.memory),
            decimal(need.disk),
            decimal(need.fetch) if need.fetch else "-",
            _words(need),
        )
        for need in found
    ]


def _words(need: Need) -> str:
    missing = f"not in Faultline yet: {', '.join(need.unknown)}" if need.unknown else ""
    here = ", ".join(component for component in need.components if component not in need.unknown) or "nothing"
    return "; ".join(part for part in (here, missing, *need.why_not) if part)
