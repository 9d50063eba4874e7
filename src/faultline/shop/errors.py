"""What the shop may refuse, and what its callers are told.

ShopError
├── BadSettings          refused: the process does not start; the message names the variable
├── MigrationChanged     refused: the process does not start; a migration that was applied is not what it was
└── Problem              an answer to a caller: status, a name that programs may compare, and a sentence
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of a request."""

    field: str
    """Its path, such as `lines[2].quantity`."""
    detail: str


class ShopError(Exception):
    """Root of the tree."""


class BadSettings(ShopError):
    """The environment says too little, or nonsense."""


class MigrationChanged(ShopError):
    """A migration was edited after a database has it: write a new one instead."""


class Problem(ShopError):
    """What a route raises to answer with `application/problem+json` (RFC 9457)."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        """`name`: in small letters and dashes, the end of the problem's `type`. `retry_after`: seconds."""
        super().__init__(f"{status} {name}: {detail}")
        self.status = status
        self.name = name
        self.detail = detail
        self.retry_after = retry_after
        self.violations = tuple(violations)
