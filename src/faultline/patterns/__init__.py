"""Patterns for services that share things and fail: each a small class over the client that you hand it.

Nothing here opens a connection (but what takes an address: `Relay`, `Inbox`, `Subscriber`, `Consumer`, `Parking`,
`Orchestrator`, `EventStore` and what stands on it), reads a setting or starts a task that outlives the call (or the
`async with`) that asked for it. What every error means, and whether a retry is safe, stands in `errors`.
"""

from faultline.patterns.borrowed_hits import BorrowedHits
from faultline.patterns.breaker import CircuitBreaker, CircuitState
from faultline.patterns.bulkhead import Bulkhead
from faultline.patterns.cache import CacheAside
from faultline.patterns.cache_refresh import Early, Refresh, StaleWhileRevalidate, XFetch
from faultline.patterns.coherent_cache import CoherentCache
from faultline.patterns.consumer import Consumer
from faultline.patterns.deadline import deadline, from_headers, headers, remaining
from faultline.patterns.errors import (
    AppendNotFirst,
    Away,
    BulkheadFull,
    CacheUnavailable,
    ChangesLost,
    CircuitOpen,
    DeadlineExceeded,
    LeaseUnconfirmed,
    LockLost,
    LockUnavailable,
    NotForgotten,
    NoTransaction,
    NotTried,
    NotUnderstood,
    Parked,
    PatternError,
    PriceRefused,
    SagaDesignError,
    StepRefused,
    TooLate,
    Undelivered,
    VersionConflict,
)
from faultline.patterns.event_store import START, EventStore, Fact, Position
from faultline.patterns.fence import Fence
from faultline.patterns.flights import Flights
from faultline.patterns.inbox import Inbox
from faultline.patterns.leaderboard import Entry, Trending
from faultline.patterns.leaderboard_changes import Change, Changes
from faultline.patterns.lease import Lease
from faultline.patterns.lock import DistributedLock
from faultline.patterns.orchestrator import Orchestrator, Told
from faultline.patterns.outbox import Event, Outbox
from faultline.patterns.parking import ParkedMessage, Parking
from faultline.patterns.projector import Projector
from faultline.patterns.rate_limiter import Decision, RateLimiter
from faultline.patterns.relay import OutboxLag, Relay
from faultline.patterns.retry import Retry, RetryBudget
from faultline.patterns.saga import Place, Saga, Step
from faultline.patterns.sessions import Session, SessionStore
from faultline.patterns.snapshots import Loaded, Snapshots
from faultline.patterns.subscriber import Subscriber
from faultline.patterns.upcasters import Recorded, Upcaster, Upcasters, upcast
from faultline.patterns.write_behind import Backlog, WriteBehind
from faultline.patterns.write_through import PriceDatabase, WriteThrough

__all__ = [
    "START",
    "AppendNotFirst",
    "Away",
    "Backlog",
    "BorrowedHits",
    "Bulkhead",
    "BulkheadFull",
    "CacheAside",
    "CacheUnavailable",
    "Change",
    "Changes",
    "ChangesLost",
    "CircuitBreaker",
    "CircuitOpen",
    "CircuitState",
    "CoherentCache",
    "Consumer",
    "DeadlineExceeded",
    "Decision",
    "DistributedLock",
    "Early",
    "Entry",
    "Event",
    "EventStore",
    "Fact",
    "Fence",
    "Flights",
    "Inbox",
    "Lease",
    "LeaseUnconfirmed",
    "Loaded",
    "LockLost",
    "LockUnavailable",
    "NoTransaction",
    "NotForgotten",
    "NotTried",
    "NotUnderstood",
    "Orchestrator",
    "Outbox",
    "OutboxLag",
    "Parked",
    "ParkedMessage",
    "Parking",
    "PatternError",
    "Place",
    "Position",
    "PriceDatabase",
    "PriceRefused",
    "Projector",
    "RateLimiter",
    "Recorded",
    "Refresh",
    "Relay",
    "Retry",
    "RetryBudget",
    "Saga",
    "SagaDesignError",
    "Session",
    "SessionStore",
    "Snapshots",
    "StaleWhileRevalidate",
    "Step",
    "StepRefused",
    "Subscriber",
    "Told",
    "TooLate",
    "Trending",
    "Undelivered",
    "Upcaster",
    "Upcasters",
    "VersionConflict",
    "WriteBehind",
    "WriteThrough",
    "XFetch",
    "deadline",
    "from_headers",
    "headers",
    "remaining",
    "upcast",
]
