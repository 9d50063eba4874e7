"""What one process remembers itself: bounded, and only as good as what it hears. Decides, and does nothing else.

Entries die by three things: their time is over, they are dropped (by key, by tag), or nobody is heard any more. What
was on its way here when it was dropped must not arrive afterwards: a `Reading` is opened before anybody is asked, and
what it brings is kept only if nothing was dropped meanwhile that it may belong to.

                 open ── ask Redis, load ── keep      a drop of the key, of any tag, or a gap in what is heard
                   └─────────────┬─────────────┘      ends it in between: then `keep` keeps nothing
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, the tags that it was loaded with, and the instant at which it dies."""

    value: str
    tags: tuple[str, ...]
    until: float


@dataclass(slots=True, eq=False)
class Reading:
    """One `get` that had to ask; those of the same key may wait for what it brings."""

    key: str
    good: bool
    """Whether what it brings may be kept, and shared with a `get` that begins now."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    value: str | None = None
    """None when it has ended without one: it was cancelled, if there is no `error`."""
    error: Exception | None = None


class NearCache:
    """At most `size` entries, the ones that were used last; finding, keeping and dropping a key take O(tags) steps."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._by_tag: dict[str, set[str]] = {}
        self._readings: dict[str, Reading] = {}
        self._trusted_until = -math.inf

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: str, now: float) -> str | None:
        """The value, if there is one that can be trusted."""
        entry = self._entries.get(key)
        if entry is None or now >= self._trusted_until:
            return None
        if now >= entry.until:
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def join(self, key: str, now: float) -> Reading | None:
        """The reading of this key that a `get` which begins now may wait for."""
        return self._readings.get(key) if now < self._trusted_until else None

    def open(self, key: str, now: float) -> Reading:
        """A new reading. While nobody is heard it brings something for its own `get` only."""
        reading = Reading(key, good=now < self._trusted_until)
        if reading.good:
            self._readings[key] = reading
        return reading

    def keep(self, reading: Reading, entry: Entry) -> None:
        """Hold what it has brought, if nothing was dropped since it was opened that it may belong to."""
        if not reading.good:
            return
        self._forget(reading.key)
        self._entries[reading.key] = entry
        for tag in entry.tags:
            self._by_tag.setdefault(tag, set()).add(reading.key)
        if len(self._entries) > self._size:
            self._forget(next(iter(self._entries)))

    def close(self, reading: Reading) -> None:
        """It has ended: those who wait for it look what it brought."""
        if self._readings.get(reading.key) is reading:
            del self._readings[reading.key]
        reading.ended.set()

    def drop(self, key: str) -> None:
        """The key was invalidated."""
        self._forget(key)
        if reading := self._readings.pop(key, None):
            reading.good = False

    def drop_tag(self, tag: str) -> None:
        """The tag was invalidated; of what is on its way the tags are not known yet."""
        for key in tuple(self._by_tag.get(tag, ())):
            self._forget(key)
        self._end_readings(self._readings.values())

    def drop_all(self) -> None:
        """Something was not heard, and nobody knows what."""
        self._entries.clear()
        self._by_tag.clear()
        self._end_readings(self._readings.values())

    def trust(self, until: float) -> None:
        """Somebody was heard: until then, what is here counts."""
        self._trusted_until = until

    def distrust(self) -> None:
        """Nobody is heard any more."""
        self._trusted_until = -math.inf
        self.drop_all()

    def _end_readings(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            reading.good = False
        self._readings.clear()

    def _forget(self, key: str) -> None:
        if entry := self._entries.pop(key, None):
            for tag in entry.tags:
                if keys := self._by_tag.get(tag):
                    keys.discard(key)
                    if not keys:
                        del self._by_tag[tag]
