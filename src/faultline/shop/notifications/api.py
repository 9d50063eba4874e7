"""The HTTP side of notifications: one's own inbox, what was read of it, and the stream of what is new."""

import asyncio
import logging
from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from psycopg import Error
from psycopg_pool import PoolTimeout
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import StreamingResponse

from faultline.shop.bodies import place, token
from faultline.shop.callers import User
from faultline.shop.errors import Problem
from faultline.shop.notifications.feed import PATIENCE, Feed, Over, TooMany
from faultline.shop.notifications.store import NEWEST, Notification, Notifications
from faultline.shop.problems import raises

Id = Annotated[str, Path(min_length=1, max_length=100)]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="behind it the stream goes on")]

AT_ONCE = 50  # notifications that a stream holds
HEARTBEAT = 10.0  # seconds after which a stream says that it lives
LONGEST = 300.0  # seconds of a stream: no longer than a token is good for, and it goes on where it has ended
RETRY = 1000  # milliseconds after which a browser comes again

log = logging.getLogger(__name__)


class NotificationBody(BaseModel):
    """Something that you were told; `number` is the `id` that it has in the stream."""

    id: str
    number: int
    template: str
    about: str
    """The order, or your account."""
    title: str
    text: str
    told_at: AwareDatetime
    read_at: AwareDatetime | None


class Inbox(BaseModel):
    """Some notifications, and how many of all are unread; `next` is where there may be more, null where none are."""

    items: list[NotificationBody]
    unread: int
    next: str | None
    """The next page: a reference relative to the address of this one."""


class UpTo(BaseModel):
    """The number of the newest that you have seen."""

    up_to: int = Field(ge=0, le=NEWEST)


class Read(BaseModel):
    """How many were unread before."""

    read: int


class Api:
    """The routes over these."""

    def __init__(self, notifications: Notifications, feed: Feed) -> None:
        self._notifications, self._feed = notifications, feed

    def routes(self) -> APIRouter:
        """The table of what is where."""
        router = APIRouter(prefix="/v1", tags=["notifications"])
        router.get("/notifications")(self.inbox)
        router.put("/notifications/read")(self.read_all)
        router.get("/notifications/stream")(self.stream)
        router.put("/notifications/{notification}/read", responses=raises(404))(self.read)
        return router

    async def inbox(
        self,
        request: Request,
        user: User,
        after: Annotated[str | None, Query(description="from `next`")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Inbox:
        """What you were told, the newest first, page by page; what comes meanwhile changes no page behind the first."""
        before = place(after, tuple[int])[0] if after else NEWEST
        found, unread = await self._notifications.page(user, before=before, limit=limit)
        more = None
        if len(found) == limit:
            more = f"?{request.url.include_query_params(after=token(found[-1].number)).query}"
        return Inbox(items=[_body(one) for one in found], unread=unread, next=more)

    async def read(self, notification: Id, user: User) -> NotificationBody:
        """You have read it. Asking twice is asking once. 404: you were told no such thing."""
        found = await self._notifications.read(notification, user)
        if found is None:
            raise Problem(404, "unknown-notification", f"you have no notification {notification}")
        return _body(found)

    async def read_all(self, up_to: UpTo, user: User) -> Read:
        """You have read all up to this number; what has come since, and you have not seen, stays unread."""
        return Read(read=await self._notifications.read_all(user, up_to=up_to.up_to))

    async def stream(
        self,
        user: User,
        last_event_id: LastEventId = None,
        after: Annotated[str | None, Query(description="likewise, where no header can be sent")] = None,
    ) -> StreamingResponse:
        """What you are told, as it is told, as server-sent events; each once, in order, behind the last that you have.

        Without any the stream begins with what comes from now on; it says at once where that is. It ends after some
        minutes, or with this process: then go on behind the last `id`.
        """
        from_ = _number(last_event_id or after)
        try:
            self._feed.admit()
        except (TooMany, Over) as error:
            raise Problem(503, "unavailable", str(error), retry_after=1.0) from error
        newest = (await self._notifications.last([user])).get(user, 0)
        # A number that nobody has been given is another database's: what it stood for is not to be had here.
        told = self._told(user, newest if from_ is None else min(from_, newest))
        return StreamingResponse(told, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _told(self, user: str, seen: int) -> AsyncIterator[str]:
        until = monotonic() + LONGEST
        try:
            with self._feed.listening(user, seen) as listener:
                yield f"retry: {RETRY}\nid: {seen}\n\n"
                while monotonic() < until:
                    listener.looks()
                    async with asyncio.timeout(PATIENCE):
                        page = await self._notifications.after(user, listener.seen, AT_ONCE)
                    for one in page:
                        listener.seen = one.number
                        yield f"id: {one.number}\nevent: notification\ndata: {_body(one).model_dump_json()}\n\n"
                    if len(page) < AT_ONCE and not await listener.woken(within=HEARTBEAT):
                        yield ":\n\n"
        except (Over, TooMany):
            pass
        except (Error, PoolTimeout, TimeoutError) as error:
            log.warning("a stream ends", extra={"reason": repr(error)})


def _number(said: str | None) -> int | None:
    """Where somebody has come to. Raises `Problem`."""
    if not said:
        return None
    if not (said.isascii() and said.isdecimal() and len(said) < len(str(NEWEST))):
        raise Problem(422, "invalid", "Last-Event-ID: the `id` of the last event that you have")
    return int(said)


def _body(one: Notification) -> NotificationBody:
    return NotificationBody(
        id=one.id,
        number=one.number,
        template=one.template,
        about=one.about,
        title=one.title,
        text=one.text,
        told_at=one.told_at,
        read_at=one.read_at,
    )
