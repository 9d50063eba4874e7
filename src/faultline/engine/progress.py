"""What a learner did, as values: the records that are kept, and what they say about each module."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import uuid4

from msgspec import Meta

ModuleId = Annotated[str, Meta(pattern=r"^[a-z0-9-]+/(\d\d|[a-z][a-z0-9-]*)$")]  # a module's, or a capstone's
Instant = Annotated[datetime, Meta(tz=True)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0)]


class Outcome(StrEnum):
    """How an attempt ended; only a pass counts for the roadmap."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One grading of the learner's code; its id makes it the same attempt wherever it is imported."""

    module: ModuleId
    at: Instant
    outcome: Outcome
    seconds: Annotated[float, Meta(ge=0)]
    checks_passed: Count
    checks_total: Count
    seed: Seed
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")] = field(default_factory=lambda: uuid4().hex)

    def __post_init__(self) -> None:
        _require_zone(self.at)
        if self.checks_passed > self.checks_total:
            raise ValueError(f"{self.checks_passed} of {self.checks_total} checks passed")
        if self.outcome is Outcome.PASSED and not 0 < self.checks_passed == self.checks_total:
            raise ValueError(f"a pass with {self.checks_passed} of {self.checks_total} checks is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The learner began a module; the earliest of several counts."""

    module: ModuleId
    at: Instant

    def __post_init__(self) -> None:
        _require_zone(self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class HintShown:
    """The learner saw hint `number` of a module, counted from 1; the earliest of several counts."""

    module: ModuleId
    number: Annotated[int, Meta(ge=1, lt=2**31)]
    at: Instant

    def __post_init__(self) -> None:
        _require_zone(self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class SolutionShown:
    """The learner saw the reference; the earliest of several counts."""

    module: ModuleId
    at: Instant

    def __post_init__(self) -> None:
        _require_zone(self.at)


Record = Attempt | Started | HintShown | SolutionShown


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleProgress:
    """What the records say about one module."""

    tries: int = 0
    passed_at: datetime | None = None
    started_at: datetime | None = None
    touched_at: datetime | None = None
    hints: int = 0
    solution_shown_at: datetime | None = None

    @property
    def begun(self) -> bool:
        """Whether the learner started or tried it."""
        return self.started_at is not None or self.tries > 0


_NOTHING = ModuleProgress()


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything the learner did, by module; a module that is not in it was never touched."""

    modules: Mapping[str, ModuleProgress] = field(default_factory=dict[str, ModuleProgress])

    def of(self, module: str) -> ModuleProgress:
        """What the records say about `module`, an id such as `redis/05`."""
        return self.modules.get(module, _NOTHING)


def _require_zone(at: datetime) -> None:
    if at.tzinfo is None:
        raise ValueError(f"{at} has no time zone; progress is kept in UTC")
