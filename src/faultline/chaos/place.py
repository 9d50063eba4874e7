"""Where a shop that runs keeps its books, as the records of its servers say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from faultline.chaos.books import Books
from faultline.chaos.history import read as read_history
from faultline.components.records import read
from faultline.testbed.rabbitmq import Broker, RabbitServer

if TYPE_CHECKING:
    from faultline.components import Record

HISTORY = "history.jsonl"
MANAGEMENT = re.compile(r"^management\.tcp\.port = (\d+)$", re.MULTILINE)
USUAL = 15672  # where the management API of a server that is not ours would answer


def books(folder: Path) -> Books:
    """Of the shop that runs in this folder, with what its clients have written down there."""
    servers = {record.component: record for record in read(folder)}
    history = folder / HISTORY
    return Books(
        postgres=servers["postgres"].url,
        broker=broker(servers["rabbitmq"]),
        history=lambda: read_history(history),
        opensearch=servers["opensearch"].url if "opensearch" in servers else "",
        redis=servers["redis"].url,
    )


def broker(record: Record) -> Broker:
    """The server's first virtual host."""
    told = Path(record.folder) / "rabbitmq.conf"
    found = MANAGEMENT.search(told.read_text()) if told.exists() else None
    return Broker(RabbitServer(record.host, record.port, int(found[1]) if found else USUAL), "/")
