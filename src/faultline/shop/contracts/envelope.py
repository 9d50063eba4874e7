"""What every event carries besides its data: the attributes of CloudEvents 1.0, as AMQP headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from faultline.patterns import Event, NotUnderstood
from faultline.shop.contracts.commands import COMMANDS
from faultline.shop.contracts.events import EVENTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from faultline.shop.contracts.commands import Command
    from faultline.shop.contracts.events import Contract

WORDS: dict[str, type[Contract | Command]] = {**EVENTS, **COMMANDS}


@dataclass(frozen=True, slots=True)
class Said:
    """An event or a command as its hearer gets it."""

    id: str
    data: Contract | Command
    headers: Mapping[str, str]


def said(
    event: Contract | Command, *, subject: str, sequence: int, time: datetime, correlation: str, source: str = ""
) -> Event:
    """The event in its envelope, ready for an outbox.

    `subject`: the aggregate. `sequence`: its version that the event has brought about; so the id is the same however
    often a request is repeated, and two of one id cannot be in an outbox. `correlation`: the id of the first request.
    `source`: the service that says it, where the type's first word is not its name: of a command.
    """
    service = source or event.type.partition(".")[0]
    return Event(
        id=f"{event.type}/{subject}/{sequence}",
        type=event.type,
        subject=subject,
        data=msgspec.to_builtins(event),
        headers={
            "specversion": "1.0",
            "source": f"/{service}",
            "time": time.isoformat(),
            "sequence": str(sequence),
            "correlationid": correlation,
        },
    )


def understood(event: Event) -> Said:
    """What a message says. Raises `NotUnderstood` for data that break their contract, or have none."""
    if not (contract := WORDS.get(event.type)):
        raise NotUnderstood(f"nobody has declared {event.type}")
    try:
        data = msgspec.convert(event.data, contract)
    except msgspec.ValidationError as error:
        raise NotUnderstood(f"{event.type} {event.id}: {error}") from error
    return Said(event.id, data, {**event.headers, "subject": event.subject})
