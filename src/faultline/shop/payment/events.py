"""What payment says, the commands that it carries out, and the returns that it hears of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.patterns import NotUnderstood
from faultline.shop.contracts import (
    Capture,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentRefundFailed,
    Refund,
    ReturnRequested,
)
from faultline.shop.payment.domain import AskedOtherwise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

    from faultline.shop.contracts import Said
    from faultline.shop.messages import Effect
    from faultline.shop.payment.store import Payments

SAYS = (PaymentCaptured.type, PaymentDeclined.type, PaymentRefunded.type, PaymentRefundFailed.type)
HEARS = (ReturnRequested.type,)


def carries_out(payments: Payments) -> Mapping[str, Effect]:
    """Its commands: they are written down with what they mean, and begun by `work`.

    An amount that contradicts an earlier one is nothing that a later attempt would change: such a command is parked.
    """

    async def write_down(tx: AsyncConnection, command: Said) -> None:
        assert isinstance(command.data, Capture | Refund)
        await _write_down(payments, tx, command.data)

    return dict.fromkeys((Capture.type, Refund.type), write_down)


def hears(payments: Payments) -> Mapping[str, Effect]:
    """A return that was asked for: nobody tells payment to give the money back, it knows that this is its part."""

    async def give_back(tx: AsyncConnection, event: Said) -> None:
        assert isinstance(event.data, ReturnRequested)
        asked = Refund(order=event.data.order, amount=event.data.total, reason="returned")
        await _write_down(payments, tx, asked)

    return {ReturnRequested.type: give_back}


async def _write_down(payments: Payments, tx: AsyncConnection, asked: Capture | Refund) -> None:
    try:
        await payments.told(tx, asked)
    except AskedOtherwise as error:
        raise NotUnderstood(str(error)) from error
