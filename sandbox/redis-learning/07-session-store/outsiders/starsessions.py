"""starsessions, as its middleware uses it with `rolling`: one JSON text under the id; it knows no users, no handles."""

from functools import partialmethod
from math import ceil
from types import SimpleNamespace

from starlette.requests import HTTPConnection
from starsessions.serializers import JsonSerializer
from starsessions.session import SessionHandler
from starsessions.stores.redis import RedisStore


class SessionStore:
    def __init__(self, redis, idle_ttl, _):
        self.store, self.lifetime = RedisStore(connection=redis, prefix="session:"), ceil(idle_ttl)

    async def load(self, session_id, *, user_id=None, new_id=False, fields=()):
        at = HTTPConnection({"type": "http"})
        handler = SessionHandler(at, session_id, self.store, JsonSerializer(), self.lifetime)
        await handler.load()
        kept = {"user_id": user_id, "fields": {}} if user_id else dict(at.session)
        if not kept:
            return None
        kept["fields"] = {name: text for name, text in (kept["fields"] | dict(fields)).items() if text is not None}
        at.session.update(kept)
        if new_id:
            handler.regenerate_id()
        await handler.save(self.lifetime)
        return SimpleNamespace(**kept, handle="none", ends_in=self.lifetime, id=handler.session_id)

    async def create(self, user_id):
        return await self.load(None, user_id=user_id)

    async def update(self, session_id, /, **fields):
        return await self.load(session_id, fields=fields) is not None

    rotate = partialmethod(load, new_id=True)

    async def revoke(self, session_id):
        return await self.store.remove(session_id) is None
