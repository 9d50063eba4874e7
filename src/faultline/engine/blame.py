"""Whose fault it is that a check broke off: code that answers with None where an object was promised breaks checks."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from traceback import extract_tb
from typing import Any

from redis.exceptions import DataError

from faultline.testbed import Outcome, Remote, Testbed
from faultline.testbed.method import Method
from faultline.testbed.timeline import brief

_MANY = 10_000  # values inside of one


def unusable(error: BaseException, testbed: Testbed, checks: Path) -> str:
    """What the learner's code gave that the check could not go on with, in words; "" if the error is the check's own.

    It is the learner's if it arose in the check itself, or where the check hands something to Redis, and came from a
    value that an operation gave: for an `AttributeError` from that very value, otherwise from one of a type that the
    error names.
    """
    ours = [place for place in extract_tb(error.__traceback__) if Path(place.filename) == checks]
    if not ours or not isinstance(error, AttributeError | TypeError | DataError):
        return ""
    if not isinstance(error, DataError) and extract_tb(error.__traceback__)[-1] != ours[-1]:
        return ""
    for operation in reversed(testbed.history.operations()):
        looked_at = islice(_within(operation.value), _MANY)
        if operation.outcome is Outcome.OK and any(_meant(error, value) for value in looked_at):
            given = f"{operation.what} gave {brief(operation.value)} in {operation.lane}"
            return f"{given}, and the check cannot use that: {error} ({checks.name}:{ours[-1].lineno})"
    return ""


def _meant(error: AttributeError | TypeError | DataError, value: Any) -> bool:
    if isinstance(error, AttributeError):
        return value is error.obj
    if isinstance(value, Remote) and Method.__name__ in str(error):
        return True
    return re.search(rf"\b{type(value).__name__}\b", str(error)) is not None


def _within(value: Any) -> Iterator[Any]:
    """The value and all that is inside of it."""
    yield value
    if isinstance(value, Remote):
        value = value.ref.attributes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _within(item)
