"""Session guarantees: what one client may rely on where not everybody sees the newest at once.

A session is what one client did with one object, in order and one after the other; who uses several objects gives
each pair a name of its own. Versions are integers that grow with each write of that object, as the store counts
them. Nothing is promised between sessions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faultline.testbed.errors import Broken, Vacuous
from faultline.testbed.history import Entry


@dataclass(frozen=True, slots=True)
class Saw:
    """A read that was answered showed `version`."""

    version: int
    shown_by: Entry


@dataclass(frozen=True, slots=True)
class Wrote:
    """A write that was acknowledged made `version`; one whose outcome is unknown binds nobody and is left out."""

    version: int
    shown_by: Entry


Sessions = Mapping[str, Sequence[Saw | Wrote]]


def monotonic_reads(sessions: Sessions, *, at_least: int) -> None:
    """No session sees an older version than it saw before; writes do not count.

    `Vacuous` if fewer than `at_least` reads followed another of their session, or if all reads of all sessions saw
    one version: then there was nothing older to see. A violation goes before that. O(n).
    """
    compared, versions = 0, set[int]()
    for name, session in sessions.items():
        newest: Saw | None = None
        for event in session:
            if not isinstance(event, Saw):
                continue
            versions.add(event.version)
            if newest is not None:
                compared += 1
                if event.version < newest.version:
                    raise Broken(
                        f"session {name!r} saw version {event.version} after version {newest.version}",
                        (newest.shown_by, event.shown_by),
                    )
            newest = event
    if compared < at_least:
        raise Vacuous(f"only {compared} of {at_least} reads followed another: too few to show an order")
    if len(versions) < 2:
        raise Vacuous(f"{len(versions)} versions were seen: there was nothing older to see")


def read_your_writes(sessions: Sessions, *, at_least: int) -> None:
    """No session sees an older version than it has written itself; a newer one, by others, is fine.

    `Vacuous` if fewer than `at_least` reads followed a write of their session. A violation goes before that. O(n).
    """
    followed = 0
    for name, session in sessions.items():
        own: Wrote | None = None
        for event in session:
            if isinstance(event, Wrote):
                own = event if own is None or event.version > own.version else own
            elif own is not None:
                followed += 1
                if event.version < own.version:
                    raise Broken(
                        f"session {name!r} saw version {event.version} after it had written version {own.version}",
                        (own.shown_by, event.shown_by),
                    )
    if followed < at_least:
        raise Vacuous(f"only {followed} of {at_least} reads followed a write of their session: too few to show it")
