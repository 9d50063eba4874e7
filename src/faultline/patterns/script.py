"""A Lua script as a pattern runs it: one atomic step on the server, for one round trip."""

from __future__ import annotations

from hashlib import sha1
from typing import Any, Protocol

from redis.exceptions import NoScriptError


class Commands(Protocol):
    """What is needed of a `redis.asyncio.Redis`."""

    async def execute_command(self, *words: Any) -> Any:
        """The server's answer to one command."""
        ...


class Script:
    """Sent by its digest; the text follows only when the server does not know it, as after a restart."""

    __slots__ = ("_digest", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Commands, keys: tuple[str, ...], *arguments: str | bytes | float) -> Any:
        """The script's answer, as the server gave it."""
        words = (len(keys), *keys, *arguments)
        try:
            return await client.execute_command("EVALSHA", self._digest, *words)
        except NoScriptError:
            return await client.execute_command("EVAL", self._text, *words)
