"""Brings what is in an outbox to RabbitMQ: everything, in the order of each subject, at least once.

**Promise.** What was committed to the outbox is delivered, whoever is killed where. Events of one subject are confirmed
one after the other, so each of them is *first* delivered after those before it; a consumer with an `Inbox` sees each
once, in order. Any number of relays may run: one at a time works, the others are for availability.

**How.** A page is what is *visible and not marked as sent*, by position; no cursor, so a row that commits late is
merely read late. Whoever can see a subject's second event can see the first, since that was committed before the second
was written. (Reading by `xid < pg_snapshot_xmin(…)`, ordered by (xid, position), loses nothing either, but turns two
events round when the later writer's transaction has the lower number.) Subjects are published side by side; within one
the next event waits for the confirm of the last. Marks are set after the confirms. An advisory lock elects one relay;
the server takes it back from a session that has been silent for `lease`. It keeps duplicates few; order does not rest
on it.

**Not promised.** Exactly one delivery: what was confirmed and not yet marked when a relay died is sent again. Order
between subjects. Anything, with `synchronous_commit = off`: an event may leave of a transaction that a crash undoes.
PgBouncer in transaction mode between relay and server: the lock is a session's.

**Cost.** Three statements for an empty outbox, two more for each page; a page waits for as many confirms, one after the
other, as the busiest subject in it has events. Rows that cannot be delivered are read over again in each pass.

**When something fails**

- The broker returns an event (no queue is bound) or refuses it (a full queue), or AMQP cannot say it: its subject
  waits, others go on, then `Undelivered`.
- A message above the broker's `max_message_size` ends the channel each time, for all: `Outbox.append` refuses it.
- The broker goes away or is silent for `timeout`, PostgreSQL goes away: an error; the next call connects anew. A
  PostgreSQL that is silent (paused) is waited for: no limit of ours ends that.
- A relay stops for longer than `lease`: another one takes over. The broker knows nothing of the lock, so it takes what
  the first was about to send when it wakes up: at most one event a subject, a duplicate, none out of its turn.
- `run` or `run_once` is cancelled while it publishes: what was confirmed and not yet marked is sent again.

Sources: Richardson, *Microservices Patterns* (2018), chapter 3; RabbitMQ, *Consumer Acknowledgements and Publisher
Confirms*; PostgreSQL, *Sequence Manipulation Functions* (`nextval` is never rolled back, and not ordered by commits).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from faultline.patterns.connections import Connections, OverPostgres
from faultline.patterns.errors import Undelivered
from faultline.patterns.hang_up import hang_up
from faultline.patterns.run_loop import LONGEST_PAUSE, run_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
    from psycopg import AsyncConnection
    from psycopg.sql import Composed

    Prepare = Callable[[AbstractChannel], Awaitable[object]]

WAITS = "SELECT EXISTS (SELECT FROM {table} WHERE sent_at IS NULL)"
LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
PAGE = """
SELECT position, id, type, subject, data::text, headers FROM {table}
WHERE sent_at IS NULL AND subject <> ALL (%s) ORDER BY position LIMIT %s
"""
MARK = "UPDATE {table} SET sent_at = clock_timestamp() WHERE position = ANY (%s)"
FORGET = "DELETE FROM {table} WHERE sent_at < clock_timestamp() - make_interval(secs => %s)"
LAG = """
SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(written_at)), 0)::float8
FROM {table} WHERE sent_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class OutboxLag:
    """What waits in an outbox: to be watched, for a relay that nobody runs looks well."""

    events: int
    oldest: float
    """Seconds for which the event that has waited longest has been waiting; on the server's clock."""


class _Row(NamedTuple):
    position: int
    id: str
    type: str
    subject: str
    data: str
    headers: dict[str, str]


class Relay(OverPostgres):
    """From the outbox in the database `dsn` to an exchange of the broker `amqp`. An `async with` closes it."""

    def __init__(
        self,
        dsn: str,
        amqp: str,
        *,
        exchange: str = "",
        table: str = "outbox",
        prepare: Prepare | None = None,
        batch: int = 100,
        timeout: float = 5.0,
        lease: float = 15.0,
    ) -> None:
        """Talk to nobody yet. `exchange` must be there after `prepare`; `""` is the broker's own: a type names a queue.

        `prepare`: what to do on each new channel before anything is published on it, such as declaring the exchange.
        `timeout`: seconds for the confirms of one page of `batch` events. `lease`: seconds after which a relay that has
        stopped loses its turn. Raises `ValueError` for a `batch` under 1, or a `lease` that is not above `timeout`.
        """
        if batch < 1 or not 0 < timeout < lease:
            raise ValueError(f"no relay of {batch} events within {timeout} s by a lease of {lease} s")
        self._amqp, self._exchange_name = amqp, exchange
        self._table, self._batch, self._timeout = table, batch, timeout
        self._prepare = prepare
        silence = str(round(lease * 1000))
        self._connections = Connections(dsn, {"idle_session_timeout": silence, "tcp_user_timeout": silence})
        self._broker: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hang_up()
        await super().__aexit__(kind, error, trace)

    async def run_once(self) -> int:
        """Deliver what waits, until a page is not full; returns how many were confirmed.

        0, too, while another relay works.

        Raises `Undelivered` after the pass for events that the broker returned or refused, and the clients' errors.
        Nothing is lost then, and repeating it is safe.
        """
        stuck: dict[str, str] = {}
        sent = await self._pass(stuck)
        if stuck:
            raise self._undelivered(stuck, sent)
        return sent

    async def run(self, *, on_error: Callable[[Exception], None], every: float = 0.05) -> NoReturn:
        """Deliver until it is cancelled, looking every so many seconds.

        `on_error` is told what a pass has raised; the next comes after twice the pause, at most 5 s. `Undelivered`
        slows down nobody else: those subjects alone are tried again later and later, at most 5 s apart.
        """
        waiting = _Waiting(every)
        clock = asyncio.get_running_loop().time

        async def once() -> bool:
            begun = clock()
            left_out = waiting.at(begun)
            stuck = dict(left_out)
            sent = await self._pass(stuck)
            waiting.found(stuck, begun)
            if new := {subject: reason for subject, reason in stuck.items() if subject not in left_out}:
                on_error(self._undelivered(new, sent))
            return False

        await run_loop(once, every=every, on_error=on_error)

    async def lag(self) -> OutboxLag:
        """How much waits, and for how long."""
        async with self._connections.one() as session:
            row = await (await session.execute(self._sql(LAG))).fetchone()
        assert row
        return OutboxLag(row[0], row[1])

    async def forget(self, older: float) -> int:
        """Delete what was marked as sent more than `older` seconds ago; returns how many rows."""
        async with self._connections.one() as session:
            return (await session.execute(self._sql(FORGET), (older,))).rowcount

    async def _pass(self, stuck: dict[str, str]) -> int:
        """Deliver page after page without the subjects in `stuck`, and add to it those that cannot be delivered."""
        sent = 0
        async with self._connections.one() as session:
            try:
                # Nearly always nothing does; to take the turn and give it back would be two statements more.
                row = await (await session.execute(self._sql(WAITS))).fetchone()
                if row != (True,) or not await _answer(session, LOCK, self._table):
                    return 0
                while rows := await self._page(session, stuck):
                    sent += await self._deliver(session, rows, stuck)
                    if len(rows) < self._batch:
                        break
                await _answer(session, UNLOCK, self._table)
            except BaseException:
                await session.close()  # and the lock with it
                raise
        return sent

    def _undelivered(self, stuck: dict[str, str], sent: int) -> Undelivered:
        subject, reason = next(iter(stuck.items()))
        return Undelivered(f"events of {len(stuck)} subjects stay in {self._table}; of {subject}: {reason}", sent)

    async def _page(self, session: AsyncConnection, stuck: dict[str, str]) -> list[_Row]:
        found = await session.execute(self._sql(PAGE), (list(stuck), self._batch))
        return [_Row(*row) for row in await found.fetchall()]

    async def _deliver(self, session: AsyncConnection, rows: list[_Row], stuck: dict[str, str]) -> int:
        """Publish a page, and mark what was confirmed of it even if the rest has failed."""
        confirmed: list[int] = []
        failures: list[Exception] = []
        by_subject = groupby(sorted(rows, key=lambda row: (row.subject, row.position)), lambda row: row.subject)
        try:
            async with asyncio.timeout(self._timeout):
                exchange = await self._connected()
                async with asyncio.TaskGroup() as tasks:
                    for _, events in by_subject:
                        tasks.create_task(_in_order(exchange, list(events), confirmed, stuck, failures))
        except Exception as error:  # told below, after the marks  # noqa: BLE001, RUF100
            failures.append(error)
        except BaseException:
            await self._hang_up()
            raise
        await session.execute(self._sql(MARK), (confirmed,))
        if not failures and any(row.position not in confirmed and row.subject not in stuck for row in rows):
            failures.append(ConnectionError("the broker hung up before it confirmed all events"))
        if failures:
            await self._hang_up()
            raise failures[0]
        return len(confirmed)

    async def _connected(self) -> AbstractExchange:
        if self._exchange is None or self._broker is None or self._broker.is_closed:
            import aio_pika

            await self._hang_up()
            self._broker = await aio_pika.connect(self._amqp)
            channel = await self._broker.channel(publisher_confirms=True, on_return_raises=True)
            if self._prepare:
                await self._prepare(channel)
            name = self._exchange_name
            self._exchange = await channel.get_exchange(name) if name else channel.default_exchange
        return self._exchange

    async def _hang_up(self) -> None:
        broker, self._broker, self._exchange = self._broker, None, None
        if broker:
            await hang_up(broker)

    def _sql(self, text: str) -> Composed:
        from psycopg import sql

        return sql.SQL(text).format(table=sql.Identifier(self._table))  # pyright: ignore[reportArgumentType]


class _Waiting:
    """The subjects that could not be delivered, and when they are tried again."""

    def __init__(self, every: float) -> None:
        self._every = self._pause = every
        self._again = 0.0
        self._subjects: dict[str, str] = {}

    def at(self, now: float) -> dict[str, str]:
        """Which subjects to leave out, with the reason: none when it is time to try them again."""
        return self._subjects if now < self._again else {}

    def found(self, stuck: dict[str, str], now: float) -> None:
        """Take note of what a pass that began `now` could not deliver, those included that it had left out."""
        if now >= self._again:
            self._pause = min(2 * self._pause, max(LONGEST_PAUSE, self._every)) if stuck else self._every
            self._again = now + self._pause
        self._subjects = stuck


async def _in_order(
    exchange: AbstractExchange,
    events: list[_Row],
    confirmed: list[int],
    stuck: dict[str, str],
    failures: list[Exception],
) -> None:
    """One subject's events, each after the confirm of the last; it ends at the first that fails."""
    from aio_pika import DeliveryMode, Message
    from aio_pika.exceptions import DeliveryError

    for event in events:
        message = Message(
            event.data.encode(),
            message_id=event.id,
            type=event.type,
            headers={**event.headers, "subject": event.subject},
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        try:
            await exchange.publish(message, event.type, mandatory=True)
        except DeliveryError as error:
            stuck[event.subject] = f"{event.type} {event.id}: {error or type(error).__name__}"
            return
        except (TypeError, ValueError) as error:  # nothing that AMQP can say: a row that `append` has not seen
            stuck[event.subject] = f"{event.type} {event.id}: {error}"
            return
        except Exception as error:  # the connection's end, told once for the page
            failures.append(error)
            return
        confirmed.append(event.position)


async def _answer(session: AsyncConnection, question: str, about: str) -> bool:
    from psycopg import sql

    row = await (await session.execute(sql.SQL(question), (f"relay {about}",))).fetchone()  # pyright: ignore[reportArgumentType]
    assert row
    return bool(row[0])
