"""Who is in the shop, and who talks to whom: data only, read by everything, and the one place to change it.

A service is found by its name: `faultline.shop.NAME.app` has `opened`, which `faultline.shop.service` serves.
"""

from dataclasses import dataclass
from enum import Enum


class Store(Enum):
    """What keeps a service's data, or takes it on; the value is the component's name."""

    POSTGRES = "postgres"
    REDIS = "redis"
    RABBITMQ = "rabbitmq"
    OPENSEARCH = "opensearch"


class Style(Enum):
    """How one service talks to another."""

    EVENT = "event"
    """Through the caller's outbox and RabbitMQ: nobody waits."""
    COMMAND = "command"
    """Like an event, but to one service, which is to do something."""
    REPLY = "reply"
    """What has come of a command, in the same way back."""
    HTTP = "http"
    """A request, an answer, a deadline."""
    GRPC = "grpc"
    """One call, one answer, a deadline; or a stream with heart-beats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service; what it owns nobody else reads."""

    name: str
    owns: str
    stores: tuple[Store, ...]
    port: int
    """Where its first replica usually answers HTTP; the others follow it."""
    replicas: int = 1
    rpc_port: int | None = None
    """Where its first replica usually answers gRPC, if it does."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of a service; `number` counts from 1."""

    service: Service
    number: int

    @property
    def name(self) -> str:
        """Such as `catalog-2`."""
        return f"{self.service.name}-{self.number}"

    @property
    def port(self) -> int:
        """Where it usually answers HTTP."""
        return self.service.port + self.number - 1

    @property
    def rpc_port(self) -> int | None:
        """Where it usually answers gRPC."""
        return None if self.service.rpc_port is None else self.service.rpc_port + self.number - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`caller` talks to `callee`; the policy says what it does when that goes wrong."""

    caller: str
    callee: str
    style: Style
    policy: str


SERVICES = {
    service.name: service
    for service in (
        Service(
            name="gateway",
            owns="the one way in: what passes, how often, how long it may take; what is kept at the edge",
            stores=(Store.REDIS, Store.RABBITMQ),
            port=8000,
        ),
        Service(
            name="users",
            owns="accounts and their roles; sessions; tokens and the keys that sign them; API keys",
            stores=(Store.POSTGRES, Store.REDIS, Store.RABBITMQ),
            port=8080,
        ),
        Service(
            name="catalog",
            owns="products, prices, what is trending",
            stores=(Store.POSTGRES, Store.REDIS, Store.RABBITMQ),
            port=8010,
            replicas=2,
        ),
        Service(
            name="search",
            owns="what is found by words: an index that follows from catalog and inventory, and can be made anew",
            stores=(Store.OPENSEARCH, Store.RABBITMQ),
            port=8100,
        ),
        Service(
            name="cart",
            owns="what somebody is about to buy, and what that cost when it was last heard of",
            stores=(Store.REDIS, Store.RABBITMQ),
            port=8030,
        ),
        Service(
            name="orders",
            owns="orders, as events; the checkout, as a saga; who has ordered what",
            stores=(Store.POSTGRES, Store.RABBITMQ),
            port=8040,
            replicas=2,
        ),
        Service(
            name="inventory",
            owns="stock, reservations, flash sales",
            stores=(Store.POSTGRES, Store.REDIS, Store.RABBITMQ),
            port=8020,
            rpc_port=8070,
            replicas=2,
        ),
        Service(
            name="payment",
            owns="the ledger, captures, refunds",
            stores=(Store.POSTGRES, Store.RABBITMQ),
            port=8050,
        ),
        Service(
            name="notifications",
            owns="what everybody was told, and whether they have read it",
            stores=(Store.POSTGRES, Store.RABBITMQ),
            port=8090,
            replicas=2,
        ),
        Service(
            name="analytics",
            owns="what was sold, given back and paid, day by day: a star schema, from the events of others",
            stores=(Store.POSTGRES, Store.RABBITMQ),
            port=8110,
        ),
        Service(
            name="provider",
            owns="the outside world that moves money, and misbehaves on request",
            stores=(Store.POSTGRES,),
            port=8060,
        ),
    )
}

EDGES = (
    Edge(
        caller="gateway",
        callee="catalog",
        style=Style.HTTP,
        policy="3 s with all hops; GET once more at the other replica, 10 % at most; 50 at once; breaker",
    ),
    Edge(
        caller="gateway",
        callee="search",
        style=Style.HTTP,
        policy="likewise; gone: 503, and the category's list is still the catalog's",
    ),
    Edge(
        caller="gateway",
        callee="users",
        style=Style.HTTP,
        policy="likewise; its public keys are kept, an unknown one is asked for, every 5 s at most; gone: they stay",
    ),
    Edge(
        caller="gateway",
        callee="cart",
        style=Style.HTTP,
        policy="likewise; a change is never sent again",
    ),
    Edge(
        caller="gateway",
        callee="orders",
        style=Style.HTTP,
        policy="likewise; an order again only with its key; a stream lasts, in a room of its own",
    ),
    Edge(
        caller="gateway",
        callee="inventory",
        style=Style.HTTP,
        policy="likewise",
    ),
    Edge(
        caller="gateway",
        callee="notifications",
        style=Style.HTTP,
        policy="likewise; a stream lasts for minutes, and goes on behind its last id at any replica",
    ),
    Edge(
        caller="gateway",
        callee="analytics",
        style=Style.HTTP,
        policy="likewise; the ledger of a day may take 6 s",
    ),
    Edge(
        caller="catalog",
        callee="catalog",
        style=Style.EVENT,
        policy="price-changed, product-retired: forget what the cache holds, also if who changed it was killed",
    ),
    Edge(
        caller="catalog",
        callee="gateway",
        style=Style.EVENT,
        policy="changed, retired, another price: what is kept of it goes, and nothing older is kept; unheard: 5 s old",
    ),
    Edge(
        caller="catalog",
        callee="cart",
        style=Style.EVENT,
        policy="what is new, retired, or costs something else: the newest version counts, also heard late or twice",
    ),
    Edge(
        caller="catalog",
        callee="search",
        style=Style.EVENT,
        policy="each part of a product has its version: the newest counts, also heard late or twice; gone: it waits",
    ),
    Edge(
        caller="inventory",
        callee="search",
        style=Style.EVENT,
        policy="what moves stock: a hint that the level is to be asked for; heard twice it is asked for twice",
    ),
    Edge(
        caller="search",
        callee="catalog",
        style=Style.HTTP,
        policy="pages of all products, to fill an index or compare one: 2 s a page, three times, then it is given up",
    ),
    Edge(
        caller="search",
        callee="inventory",
        style=Style.HTTP,
        policy="levels of up to 100 products: 1 s; what moved them waits until there is an answer",
    ),
    Edge(
        caller="orders",
        callee="cart",
        style=Style.EVENT,
        policy="placed and confirmed: what was ordered leaves the cart, once; what was added since stays",
    ),
    Edge(
        caller="cart",
        callee="catalog",
        style=Style.HTTP,
        policy="what was not heard of for 60 s: within 1 s, then the last known price, with its age",
    ),
    Edge(
        caller="orders",
        callee="catalog",
        style=Style.HTTP,
        policy="what things cost: the other replica within 2 s, then 503 and no order; breaker a replica",
    ),
    Edge(
        caller="orders",
        callee="inventory",
        style=Style.GRPC,
        policy="0.3 s; silent or gone: ask by the order's id what has become of it, at the other replica",
    ),
    Edge(
        caller="orders",
        callee="payment",
        style=Style.COMMAND,
        policy="waits in the outbox until payment's queue is there; begun too late, it is declined",
    ),
    Edge(
        caller="orders",
        callee="payment",
        style=Style.HTTP,
        policy="0.5 s: what has become of a capture; asked until it is known, and never guessed",
    ),
    Edge(
        caller="payment",
        callee="orders",
        style=Style.REPLY,
        policy="the reply only wakes the saga, which asks: lost, late or twice does not matter",
    ),
    Edge(
        caller="orders",
        callee="inventory",
        style=Style.EVENT,
        policy="return-requested: the goods are in the stock again, once",
    ),
    Edge(
        caller="orders",
        callee="payment",
        style=Style.EVENT,
        policy="return-requested: the money goes back, once; what the provider refuses is for a person",
    ),
    Edge(
        caller="inventory",
        callee="orders",
        style=Style.EVENT,
        policy="stock-returned: one part of a return; the order remembers it, in any order, also twice",
    ),
    Edge(
        caller="payment",
        callee="orders",
        style=Style.EVENT,
        policy="refunded, refund-failed: the other part; whichever comes last closes the return",
    ),
    Edge(
        caller="orders",
        callee="notifications",
        style=Style.EVENT,
        policy="whatever becomes of an order: whose it is, is told once of each, in the inbox's transaction",
    ),
    Edge(
        caller="payment",
        callee="notifications",
        style=Style.EVENT,
        policy="refunded, refund-failed: likewise; heard before the order was, it is kept until then",
    ),
    Edge(
        caller="users",
        callee="notifications",
        style=Style.EVENT,
        policy="registered: a welcome; erased: nothing is kept of what they were told, and nothing more is told",
    ),
    Edge(
        caller="orders",
        callee="analytics",
        style=Style.EVENT,
        policy="placed, confirmed, given back: staged once, and loaded in any order, also late",
    ),
    Edge(
        caller="payment",
        callee="analytics",
        style=Style.EVENT,
        policy="captured, refunded: likewise",
    ),
    Edge(
        caller="catalog",
        callee="analytics",
        style=Style.EVENT,
        policy="what a product is, and what it was when it was sold: likewise",
    ),
    Edge(
        caller="users",
        callee="analytics",
        style=Style.EVENT,
        policy="registered; and erased, after which all that this user has bought is nobody's",
    ),
    Edge(
        caller="analytics",
        callee="orders",
        style=Style.HTTP,
        policy="5 s: its log, page by page, for what was before; away: the backfill waits, and says so",
    ),
    Edge(
        caller="analytics",
        callee="payment",
        style=Style.HTTP,
        policy="5 s: its ledger, likewise; to compare with a day: once, then 503",
    ),
    Edge(
        caller="analytics",
        callee="catalog",
        style=Style.HTTP,
        policy="5 s: its products as they are now, likewise",
    ),
    Edge(
        caller="payment",
        callee="provider",
        style=Style.HTTP,
        policy="1 s, 8 at once, breaker; unknown: ask by the order's key, then charge under the same one",
    ),
    Edge(
        caller="provider",
        callee="payment",
        style=Style.HTTP,
        policy="webhook, signed: sent until it is acknowledged; late, twice and out of order",
    ),
)


def replicas(names: tuple[str, ...] = tuple(SERVICES)) -> tuple[Replica, ...]:
    """All processes of these services, in order. Raises `KeyError` for a name that nobody has."""
    return tuple(Replica(SERVICES[name], number + 1) for name in names for number in range(SERVICES[name].replicas))


def queues(edges: tuple[Edge, ...] = EDGES) -> tuple[str, ...]:
    """Where services hear what others say: events, commands, and the replies to these."""
    heard = {Style.EVENT: "events", Style.COMMAND: "commands", Style.REPLY: "replies"}
    return tuple(sorted({f"{edge.callee}.{heard[edge.style]}" for edge in edges if edge.style in heard}))
