"""What notifications hears, and that it says what it has told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.shop.contracts import (
    NotificationSent,
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    PaymentRefunded,
    PaymentRefundFailed,
    ReturnClosed,
    ReturnRequested,
    UserErased,
    UserRegistered,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

    from faultline.shop.contracts import Said
    from faultline.shop.messages import Effect
    from faultline.shop.notifications.store import Notifications

SAYS = (NotificationSent.type,)
HEARS = (
    OrderPlaced.type,
    OrderConfirmed.type,
    OrderCancelled.type,
    ReturnRequested.type,
    ReturnClosed.type,
    PaymentRefunded.type,
    PaymentRefundFailed.type,
    UserRegistered.type,
    UserErased.type,
)


def hears(notifications: Notifications) -> Mapping[str, Effect]:
    """Each event is told to whom it concerns, in the transaction of its inbox."""

    async def tell(tx: AsyncConnection, event: Said) -> None:
        match event.data:
            case UserErased(user=user):
                await notifications.erase(tx, user)
            case OrderPlaced() as data:
                await notifications.tell_placed(tx, event.id, data)
            case (
                UserRegistered(user=user)
                | OrderConfirmed(user=user)
                | OrderCancelled(user=user)
                | ReturnRequested(user=user)
                | ReturnClosed(user=user)
            ) as data:
                await notifications.tell(tx, event.id, data, user)
            case (PaymentRefunded() | PaymentRefundFailed()) as data:
                await notifications.tell_buyer(tx, event.id, data)
            case _:
                raise AssertionError(f"{event.id} is not heard here")

    return dict.fromkeys(HEARS, tell)
