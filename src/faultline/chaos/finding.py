"""What an invariant says of the shop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from faultline.chaos.books import Books


@dataclass(frozen=True, slots=True)
class Violated:
    """It does not hold: a sentence with the evidence."""

    evidence: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """A client never learned how its request ended, so either way is right; which way it went cannot be told."""

    evidence: str


Finding = Violated | Undecided
Findings: TypeAlias = "AsyncIterator[Finding]"


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise of the whole shop."""

    number: str
    """Such as `I1`."""
    promise: str
    check: Callable[[Books], Findings]
    """Reads, and says what is wrong; nothing if it holds. Raises `Unreadable`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of checking one of them."""

    invariant: Invariant
    findings: tuple[Finding, ...] = ()
    unreadable: str = ""
    """Why nothing can be said; empty where it was checked."""

    @property
    def violated(self) -> list[str]:
        """The evidence against it."""
        return [finding.evidence for finding in self.findings if isinstance(finding, Violated)]

    @property
    def undecided(self) -> list[str]:
        """What may have gone either way."""
        return [finding.evidence for finding in self.findings if isinstance(finding, Undecided)]

    @property
    def state(self) -> str:
        """In one word: `held`, `violated`, `undecided` or `unread`."""
        if self.unreadable:
            return "unread"
        return "violated" if self.violated else "undecided" if self.undecided else "held"
