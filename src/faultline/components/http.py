"""One HTTP request to a server, for whether it serves; JSON comes and goes as bytes."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

LONGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What it said; the names of headers are in small letters, in `lines` also those that came twice."""

    status: int
    lines: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def headers(self) -> Mapping[str, str]:
        """Of each name the last one."""
        return dict(self.lines)


async def ask(url: str, *, method: str = "GET", body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """The answer; a user and password in the address are sent along. No redirects are followed.

    Raises `OSError` where nothing listens, or what listens gives no whole HTTP answer.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    sent = {"Host": f"{parts.hostname}:{port}", "Connection": "close", **(headers or {})}
    if method != "GET":
        sent["Content-Length"] = str(len(body))
    if parts.username:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        sent["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure or None, limit=LONGEST)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return await _answer(reader, bodiless=method == "HEAD")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
        raise ConnectionError(f"{parts.hostname}:{port} gave no whole HTTP answer: {error}") from error
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, *, bodiless: bool) -> Answer:
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    lines = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in rest if line)]
    headers = dict(lines)
    if bodiless:
        body = b""
    elif headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    return Answer(int(first.split()[1]), lines, body)
