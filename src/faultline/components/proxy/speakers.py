"""The protocols that a proxy can read."""

from collections.abc import Callable
from typing import Literal

from faultline.components.proxy.amqp_conversation import AmqpConversation
from faultline.components.proxy.conversation import Conversation, RedisConversation
from faultline.components.proxy.http2_conversation import Http2Conversation
from faultline.components.proxy.ledger import Ledger
from faultline.components.proxy.postgres_conversation import PostgresConversation
from faultline.components.proxy.turns_conversation import TurnsConversation

Protocol = Literal["redis", "postgres", "turns", "amqp", "http2"]

SPEAKERS: dict[Protocol, Callable[[int, Ledger], Conversation]] = {
    "redis": RedisConversation,
    "postgres": PostgresConversation,
    "turns": TurnsConversation,
    "amqp": AmqpConversation,
    "http2": Http2Conversation,
}
