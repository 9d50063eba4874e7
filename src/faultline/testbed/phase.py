"""The three edges of a request."""

from enum import Enum


class Phase(Enum):
    """Where in the life of a request; the value completes the sentence "killed …"."""

    BEFORE = "before {} was executed"
    EXECUTED = "after {} had been executed, before its answer arrived"
    ANSWERED = "after the answer to {} had arrived"
