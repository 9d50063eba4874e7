"""Where the learner stands: follows from passes of built modules only."""

from dataclasses import dataclass
from enum import StrEnum

from faultline.engine.progress import Progress
from faultline.engine.roadmap import Module, Roadmap, Topic


class ModuleStatus(StrEnum):
    """How far a module is; one that is not built is never more than that."""

    NOT_BUILT = "not built yet"
    PENDING = "pending"
    IN_PROGRESS = "in progress"
    PASSED = "passed"


class TopicStatus(StrEnum):
    """How far a topic is, by the roadmap's own three signs."""

    PENDING = "pending"
    IN_PROGRESS = "in progress"
    COMPLETED = "completed"

    @property
    def label(self) -> str:
        """The status as the roadmap writes it, sign and word."""
        return {"pending": "🔲 Pending", "in progress": "🔄 In Progress", "completed": "✅ Completed"}[self]

    @property
    def sign(self) -> str:
        """The sign alone."""
        return self.label[0]


@dataclass(frozen=True, slots=True)
class Totals:
    """How many modules there are, how many of them are built, and how many of those are passed."""

    modules: int
    built: int
    passed: int

    @property
    def percent(self) -> int:
        """Passed of all modules, rounded down: 100 means every one."""
        return 100 * self.passed // self.modules if self.modules else 0


def module_status(module: Module, progress: Progress) -> ModuleStatus:
    """How far the learner is with a module."""
    if not module.built:
        return ModuleStatus.NOT_BUILT
    done = progress.of(module.id)
    if done.passed_at is not None:
        return ModuleStatus.PASSED
    return ModuleStatus.IN_PROGRESS if done.begun else ModuleStatus.PENDING


def topic_status(topic: Topic, progress: Progress) -> TopicStatus:
    """Completed once every module is passed, in progress from the first start or attempt."""
    statuses = {module_status(module, progress) for module in topic.modules}
    if statuses == {ModuleStatus.PASSED}:
        return TopicStatus.COMPLETED
    begun = statuses & {ModuleStatus.PASSED, ModuleStatus.IN_PROGRESS}
    return TopicStatus.IN_PROGRESS if begun else TopicStatus.PENDING


def totals(part: Roadmap | Topic, progress: Progress) -> Totals:
    """The count of modules, of the whole roadmap or of one topic."""
    statuses = [module_status(module, progress) for module in part.modules]
    return Totals(
        modules=len(statuses),
        built=len(statuses) - statuses.count(ModuleStatus.NOT_BUILT),
        passed=statuses.count(ModuleStatus.PASSED),
    )
