"""A Lua script as a pattern runs it: one atomic step on the server, for one round trip."""

from __future__ import annotations

from hashlib import sha1
from typing import Any, Protocol

from redis import exceptions


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
        """The script's answer, as the server gave it. Raises the client's errors."""
        words = (len(keys), *keys, *arguments)
        try:
            return await _answer(client, "EVALSHA", self._digest, *words)
        except exceptions.NoScriptError:
            return await _answer(client, "EVAL", self._text, *words)


async def _answer(client: Commands, *words: Any) -> Any:
    try:
        return await client.execute_command(*words)
    except AttributeError as error:
        # Python 3.13.0 has no better error for a write to a connection that has just been closed.
        if error.name != "_add_writer":
            raise
        raise exceptions.ConnectionError("the connection was closed while a script was being sent") from error
