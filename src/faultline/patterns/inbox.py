"""Each message takes effect once, however often it is delivered.

    inbox = Inbox(dsn, consumer="search")

    async def index(tx: AsyncConnection) -> None:
        await tx.execute("INSERT INTO documents …")

    await inbox.process(message.message_id, index)
    await message.ack()

**Promise.** The message's id and what the handler does on `tx` are committed together or not at all: with any number of
consumers in any number of processes, whoever is killed where. Acknowledge after `process` has returned, not before.

**How.** The id goes in first, under a unique key, in the handler's own transaction; a second delivery waits there until
the first is committed (then it is skipped) or rolled back (then it is processed). A session that is silent inside its
transaction for `patience`, as that of a consumer that has stopped, is ended by the server, and its message is free.

**Not promised.** Once only for what the handler does elsewhere (a mail, a call): give that the id as its key. Order: it
is the queue's. Anything for a message that comes again after its id was forgotten (`forget`).

**Cost.** A transaction with one INSERT, into which the handler's statements come.

**When something fails**

- The handler raises, or is cancelled: nothing has happened, and its error is raised; deliver the message again.
- The handler has swallowed an error of PostgreSQL: the server would answer COMMIT with a silent rollback, so
  `NoTransaction` is raised.
- The connection breaks in the commit: `psycopg.OperationalError`, unknown; processing again is safe, and finds out.

Sources: Richardson, *Microservices Patterns* (2018), chapter 3; Helland, *Life beyond Distributed Transactions* (2007).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.patterns.connections import Connections, OverPostgres
from faultline.patterns.errors import NoTransaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psycopg import AsyncConnection

SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox (
    consumer text NOT NULL,
    message_id text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id)
)
"""
REMEMBER = "INSERT INTO inbox (consumer, message_id) VALUES (%s, %s) ON CONFLICT DO NOTHING"
FORGET = "DELETE FROM inbox WHERE consumer = %s AND seen_at < clock_timestamp() - make_interval(secs => %s)"


class Inbox(OverPostgres):
    """What a consumer has seen, in the table `inbox` of the database `dsn`, where its effects are too.

    An `async with` closes its connections.
    """

    def __init__(self, dsn: str, *, consumer: str = "", patience: float = 30.0, connections: int = 10) -> None:
        """Talk to nobody yet; consumers of different names see each message once each.

        `patience`: seconds for which a handler may leave its transaction alone; `connections`: how many messages at
        once. Raises `ValueError` for less than 1 ms, or no connection.
        """
        if round(patience * 1000) < 1:
            raise ValueError(f"a patience of {patience} s ends every handler")
        silence = str(round(patience * 1000))
        self._consumer = consumer
        self._connections = Connections(
            dsn, {"idle_in_transaction_session_timeout": silence, "tcp_user_timeout": silence}, most=connections
        )

    async def create(self) -> None:
        """Make the table unless it is there; any number of processes may do so at once."""
        async with self._making("inbox") as session:
            await session.execute(SCHEMA)

    async def process(self, message_id: str, handler: Callable[[AsyncConnection], Awaitable[object]]) -> bool:
        """Let the handler work in one transaction with the message's id; False, and no call, if that was seen before.

        Raises what the handler raises, `NoTransaction`, `psycopg.Error`, and `ValueError` for an empty id.
        """
        from psycopg.pq import TransactionStatus

        if not message_id:
            raise ValueError("a message without an id cannot be told from its copies")
        async with self._connections.one() as session, session.transaction():
            if (await session.execute(REMEMBER, (self._consumer, message_id))).rowcount == 0:
                return False
            await handler(session)
            if session.info.transaction_status != TransactionStatus.INTRANS:
                raise NoTransaction(f"the handler of {message_id} has gone on after an error of PostgreSQL")
        return True

    async def forget(self, older: float) -> int:
        """Forget what was seen more than `older` seconds ago; returns how many. Copies of it would count as new."""
        async with self._connections.one() as session:
            return (await session.execute(FORGET, (self._consumer, older))).rowcount
