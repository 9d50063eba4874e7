"""What analytics hears; it says nothing."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from faultline.shop.analytics.domain import Staged, staged
from faultline.shop.contracts import (
    Contract,
    OrderConfirmed,
    OrderPlaced,
    PaymentCaptured,
    PaymentRefunded,
    ProductChanged,
    ProductCreated,
    ReturnClosed,
    UserErased,
    UserRegistered,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

    from faultline.shop.analytics.store import Staging
    from faultline.shop.contracts import Said
    from faultline.shop.messages import Effect

SAYS = ()
HEARS = (
    OrderPlaced.type,
    OrderConfirmed.type,
    ReturnClosed.type,
    PaymentCaptured.type,
    PaymentRefunded.type,
    ProductCreated.type,
    ProductChanged.type,
    UserRegistered.type,
    UserErased.type,
)


def hears(staging: Staging) -> Mapping[str, Effect]:
    """Each is staged, with the inbox; what follows from it is loaded afterwards."""

    async def extract(tx: AsyncConnection, event: Said) -> None:
        await staging.put(tx, [kept(event, await staging.key())])

    return dict.fromkeys(HEARS, extract)


def kept(event: Said, key: bytes) -> Staged:
    """What is staged of it, at its own time."""
    assert isinstance(event.data, Contract)
    return staged(
        event.data,
        id_=event.id,
        subject=event.headers["subject"],
        sequence=int(event.headers["sequence"]),
        at=datetime.fromisoformat(event.headers["time"]),
        key=key,
    )
