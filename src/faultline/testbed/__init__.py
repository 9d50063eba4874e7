"""What a check stands on: servers and faults, processes of the learner's code, histories and checkers.

A check in `sandbox/*/checks.py` takes a `Testbed` and imports from here only.
"""

from faultline.components.faults import (
    Age,
    Bandwidth,
    BlackHole,
    Cut,
    Direction,
    Latency,
    PartialWrites,
    Refuse,
    Reset,
    SlowDrip,
)
from faultline.components.proxy import named, saying
from faultline.testbed.call import Call
from faultline.testbed.callbacks import Callback, CallOfIt, Interface, Throw
from faultline.testbed.checkers import (
    Held,
    any_window_rate,
    conservation,
    mutual_exclusion,
    strictly_increasing,
)
from faultline.testbed.edges import Edge
from faultline.testbed.effects import exactly_once
from faultline.testbed.errors import Broken, BudgetMissed, ProcessDied, Raised, TestbedError, Unanswered, Vacuous
from faultline.testbed.faked_clock import FakedClock
from faultline.testbed.held_transaction import HeldTransaction, Waiter
from faultline.testbed.history import Entry, History, Note, Operation, Outcome
from faultline.testbed.injected_clock import InjectedClock
from faultline.testbed.linearizability import CompareAndSet, Read, Write, linearizable_register
from faultline.testbed.lossy_network import LossyNetwork
from faultline.testbed.postgres import Database, PostgresServer, ProxiedPostgres
from faultline.testbed.process import LearnerProcess, Remote
from faultline.testbed.rabbitmq import Broker, OwnBroker
from faultline.testbed.redis import ProxiedRedis, RedisServer
from faultline.testbed.replica_lag import PostgresReplica, RedisReplica
from faultline.testbed.republisher import Noise, Republisher
from faultline.testbed.service import Service
from faultline.testbed.sessions import Saw, Wrote, monotonic_reads, read_your_writes
from faultline.testbed.testbed import Testbed
from faultline.testbed.timeline import timeline
from faultline.testbed.tiny_disk import TinyDisk
from faultline.testbed.upstream import HttpAnswer, HttpRequest, ProxiedUpstream, Upstream
from faultline.testbed.wire import Named

__all__ = [
    "Age",
    "Bandwidth",
    "BlackHole",
    "Broken",
    "Broker",
    "BudgetMissed",
    "Call",
    "CallOfIt",
    "Callback",
    "CompareAndSet",
    "Cut",
    "Database",
    "Direction",
    "Edge",
    "Entry",
    "FakedClock",
    "Held",
    "HeldTransaction",
    "History",
    "HttpAnswer",
    "HttpRequest",
    "InjectedClock",
    "Interface",
    "Latency",
    "LearnerProcess",
    "LossyNetwork",
    "Named",
    "Noise",
    "Note",
    "Operation",
    "Outcome",
    "OwnBroker",
    "PartialWrites",
    "PostgresReplica",
    "PostgresServer",
    "ProcessDied",
    "ProxiedPostgres",
    "ProxiedRedis",
    "ProxiedUpstream",
    "Raised",
    "Read",
    "RedisReplica",
    "RedisServer",
    "Refuse",
    "Remote",
    "Republisher",
    "Reset",
    "Saw",
    "Service",
    "SlowDrip",
    "Testbed",
    "TestbedError",
    "Throw",
    "TinyDisk",
    "Unanswered",
    "Upstream",
    "Vacuous",
    "Waiter",
    "Write",
    "Wrote",
    "any_window_rate",
    "conservation",
    "exactly_once",
    "linearizable_register",
    "monotonic_reads",
    "mutual_exclusion",
    "named",
    "read_your_writes",
    "saying",
    "strictly_increasing",
    "timeline",
]
