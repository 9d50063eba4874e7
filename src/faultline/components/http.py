"""One HTTP request to a server of ours, for whether it serves; JSON comes and goes as bytes."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """What it said."""

    status: int
    body: bytes = field(repr=False)


async def ask(url: str, *, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """The answer; a user and password in the address are sent along. Raises `OSError` where there is none.

    No redirects, no TLS, no chunks: HTTP/1.0 on 127.0.0.1.
    """
    parts = urlsplit(url)
    sent = {"Host": f"{parts.hostname}:{parts.port}", "Content-Length": str(len(body)), **(headers or {})}
    if parts.username:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        sent["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        lines = [f"{method} {target} HTTP/1.0", *(f"{name}: {value}" for name, value in sent.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, content = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    try:
        return Answer(int(head.split(None, 2)[1]), content)
    except (IndexError, ValueError):
        raise ConnectionError(f"{url} does not speak HTTP: {head[:80]!r}") from None
