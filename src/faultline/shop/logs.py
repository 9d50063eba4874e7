"""One JSON object a line, with the id of the request that it is about."""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import msgspec

NO_REQUEST = ""
request_id: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)
"""Of the request that the running task works for."""

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonLines(logging.Formatter):
    """`time`, `level`, `service`, `logger`, `event`, then whatever was given as `extra`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (current := request_id.get()) != NO_REQUEST:
            line["request_id"] = current
        line |= {name: value for name, value in vars(record).items() if name not in _KNOWN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


def configure(service: str, *, to: TextIO = sys.stdout) -> None:
    """All that this process logs goes there, its libraries' warnings too."""
    handler = logging.StreamHandler(to)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("aio_pika", "aiormq", "uvicorn", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
