"""What can go wrong on the testbed, and whose fault it is.

Exception
├── Raised             the learner's code raised; carries its type, bases, message and place
├── TestbedError       ours: the verdict becomes `error`, never `fail`
│   └── Vacuous        a fault did not hit, or a measurement could not have seen what must be absent
└── AssertionError     the learner's: the verdict becomes `fail`
    ├── Broken         a promise does not hold; carries the operations that show it
    ├── ProcessDied    the learner's process ended by itself
    ├── Unanswered     a service of the learner's gave no whole answer
    └── BudgetMissed   something took longer than promised: tried once more before it counts
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faultline.testbed.history import Entry


class Raised(Exception):
    """The learner's code raised: `kind` is the exception's name, `bases` the names of all its base classes."""

    def __init__(self, *, kind: str, bases: Sequence[str], message: str, where: str) -> None:
        place = f", at {where}" if where else ""
        super().__init__(f"{kind}: {message}{place}" if message else f"{kind}{place}")
        self.kind = kind
        self.bases = tuple(bases)
        self.message = message
        self.where = where


class TestbedError(Exception):
    """The testbed failed; says nothing about the learner's code."""

    __test__ = False  # pytest collects what is called Test*


class Vacuous(TestbedError):
    """The check proved nothing: its fault did not hit."""


class Broken(AssertionError):
    """A promise does not hold; `witness` are the entries of the history that show it."""

    def __init__(self, message: str, witness: "Sequence[Entry]" = ()) -> None:
        super().__init__(message)
        self.witness = tuple(witness)


class ProcessDied(AssertionError):
    """The process of the learner's code ended, and no check had killed it."""


class Unanswered(AssertionError):
    """A service of the learner's refused the connection, hung up, or said what is no whole HTTP answer."""


class BudgetMissed(AssertionError):
    """The `promise` took longer than its budget, `took` seconds; on a slow machine that proves little."""

    def __init__(self, message: str, *, promise: str, took: float) -> None:
        super().__init__(message)
        self.promise = promise
        self.took = took
