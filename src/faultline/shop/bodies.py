"""What the bodies of several services have in them: amounts, and the place where the next page begins.

Numbers that come in are `strict`: pydantic would take `true` for 1 and `"7"` for 7, and the documents say integer.
"""

import base64
from typing import Self, TypeVar

import msgspec
from pydantic import BaseModel, Field

from faultline.shop.contracts import Money
from faultline.shop.errors import Problem

P = TypeVar("P")


class MoneyBody(BaseModel):
    """An amount."""

    cents: int
    currency: str

    @classmethod
    def of(cls, money: Money) -> Self:
        """The amount as a body."""
        return cls(cents=money.cents, currency=money.currency)


class PriceBody(BaseModel):
    """An amount that somebody is to pay."""

    cents: int = Field(gt=0, le=10**12, strict=True)
    currency: str = Field(default="EUR", pattern=r"^[A-Z]{3}$")


def token(*place: object) -> str:
    """A place in a list, behind which its next page begins; no caller has to know what is in it."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place(token: str, kind: type[P]) -> P:
    """The place of that token, a tuple type. Raises `Problem` (422) for one that nobody has made."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=kind)
    except ValueError as error:  # also of msgspec and base64
        raise Problem(422, "invalid", "after: take it from `next` of the page before") from error
