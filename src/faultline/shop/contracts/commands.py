"""Commands, and the replies to them: what the checkout and payment write to each other over `shop.commands`.

A command is named after the service that carries it out, a reply likewise. Each of an order's commands exists once, and
is carried out once, however often it arrives.
"""

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from faultline.shop.contracts.events import Money


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """Take this amount for an order. What has not been begun `until` then is declined (`too-late`)."""

    type: ClassVar[str] = "payment.capture.v1"
    order: str
    amount: Money
    until: datetime


class CaptureReplied(msgspec.Struct, frozen=True, kw_only=True):
    """What has come of it, for good; `code` says why it was declined."""

    type: ClassVar[str] = "payment.capture-replied.v1"
    order: str
    outcome: Literal["captured", "declined"]
    code: str = ""


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """Give back the whole of what was captured for an order."""

    type: ClassVar[str] = "payment.refund.v1"
    order: str
    amount: Money
    reason: str


class RefundReplied(msgspec.Struct, frozen=True, kw_only=True):
    """It was given back, or nothing was ever taken and nothing will be."""

    type: ClassVar[str] = "payment.refund-replied.v1"
    order: str


Command = Capture | CaptureReplied | Refund | RefundReplied

COMMANDS: dict[str, type[Command]] = {
    command.type: command for command in (Capture, CaptureReplied, Refund, RefundReplied)
}
