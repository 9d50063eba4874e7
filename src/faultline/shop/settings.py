"""What one process of the shop is told by its environment, read once in its `main`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from faultline.shop.errors import BadSettings
from faultline.shop.topology import EDGES, Store, Style, replicas

if TYPE_CHECKING:
    from collections.abc import Mapping

    from faultline.shop.topology import Replica

SEARCH_INDEX = "shop-products"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where this process answers, and where what it needs does."""

    replica: Replica
    host: str
    port: int
    rpc_port: int | None
    postgres: str
    """The server; each service has a database of its own name there."""
    redis: str
    rabbitmq: str
    opensearch: str
    """Of these four, what the service has no use for may be empty."""
    search_index: str
    """What the index of products is called; the names of all that belongs to it begin so."""
    peers: Mapping[str, tuple[str, ...]]
    """Whom its edges lead to, by name: `host:port` of each replica, for gRPC where that is the edge's style."""
    lock: str
    """The module with the `DistributedLock` that guards flash sales: ours, or a learner's file."""
    provider_secret: str = field(repr=False)
    """What payment and the provider know each other by; empty for who is neither."""
    users_secret: str = field(repr=False)
    """What users seals its private keys with, and makes refresh tokens by; empty for everybody else."""
    issuer: str
    """Who has issued an access token: the gateway, as it is called from outside."""
    trending: str
    """The module with the `Trending` that the catalog ranks by, likewise."""
    rate_limiter: str
    """The module with the `RateLimiter` that the gateway counts by, likewise."""
    rate_limit: int
    """Requests that the gateway takes of one caller in any `rate_seconds`."""
    rate_seconds: float
    drain: float
    """Seconds that requests have to end, once the process is asked to."""
    stalled: float
    """Seconds for which a caller may take nothing of what it is sent, until it is hung up on."""

    @property
    def service(self) -> str:
        """Such as `catalog`."""
        return self.replica.service.name

    @classmethod
    def read(cls, environment: Mapping[str, str], replica: Replica) -> Settings:
        """From `SHOP_…` variables; raises `BadSettings` for one that is missing or no number."""
        try:
            return cls(
                replica=replica,
                host=environment.get("SHOP_HOST", "127.0.0.1"),
                port=_port(environment, port_variable(replica), replica.port),
                rpc_port=replica.rpc_port and _port(environment, rpc_port_variable(replica), replica.rpc_port),
                postgres=_store(environment, replica, Store.POSTGRES),
                redis=_store(environment, replica, Store.REDIS),
                rabbitmq=_store(environment, replica, Store.RABBITMQ),
                opensearch=_store(environment, replica, Store.OPENSEARCH),
                search_index=environment.get("SHOP_SEARCH_INDEX", SEARCH_INDEX),
                peers=_peers(environment, replica),
                lock=environment.get("SHOP_LOCK", "faultline.patterns.lock"),
                provider_secret=environment.get("SHOP_PROVIDER_SECRET", ""),
                users_secret=environment.get("SHOP_USERS_SECRET", ""),
                issuer=environment.get("SHOP_ISSUER", "") or f"http://{_gateway(environment)}",
                trending=environment.get("SHOP_TRENDING", "faultline.patterns.leaderboard"),
                rate_limiter=environment.get("SHOP_RATE_LIMITER", "faultline.patterns.rate_limiter"),
                rate_limit=_count(environment, "SHOP_RATE_LIMIT", "100"),
                rate_seconds=_seconds(environment, "SHOP_RATE_SECONDS", "60"),
                drain=_seconds(environment, "SHOP_DRAIN_SECONDS", "5"),
                stalled=_seconds(environment, "SHOP_STALLED_SECONDS", "20"),
            )
        except KeyError as missing:
            raise BadSettings(
                f"{replica.name} needs {missing.args[0]}, such as postgresql://…, redis://…, amqp://… or http://…; "
                "`./lab shop up` starts the servers and sets it"
            ) from None


def port_variable(replica: Replica) -> str:
    """The variable that moves a replica from its usual HTTP port, such as `SHOP_CATALOG_2_PORT`."""
    return f"SHOP_{replica.service.name.upper()}_{replica.number}_PORT"


def rpc_port_variable(replica: Replica) -> str:
    """Likewise for gRPC."""
    return f"SHOP_{replica.service.name.upper()}_{replica.number}_RPC_PORT"


def peer_variable(caller: str, callee: Replica) -> str:
    """The variable that leads a service's calls of a replica elsewhere, as to a proxy: `SHOP_ORDERS_TO_CATALOG_2`."""
    return f"SHOP_{caller.upper()}_TO_{callee.service.name.upper()}_{callee.number}"


def _store(environment: Mapping[str, str], replica: Replica, store: Store) -> str:
    """Where it is. Raises `KeyError` if that is not said, and the service needs it."""
    variable = f"SHOP_{store.value.upper()}_URL"
    return environment[variable] if store in replica.service.stores else environment.get(variable, "")


def _peers(environment: Mapping[str, str], replica: Replica) -> dict[str, tuple[str, ...]]:
    caller = replica.service.name
    return {
        edge.callee: tuple(_address(environment, caller, peer, edge.style) for peer in replicas((edge.callee,)))
        for edge in EDGES
        if edge.caller == caller and edge.style in {Style.HTTP, Style.GRPC}
    }


def _address(environment: Mapping[str, str], caller: str, callee: Replica, style: Style) -> str:
    variable, usual = port_variable(callee), callee.port
    if style is Style.GRPC:
        assert callee.rpc_port, f"{caller} calls {callee.name} by gRPC, which does not answer any"
        variable, usual = rpc_port_variable(callee), callee.rpc_port
    host = environment.get("SHOP_HOST", "127.0.0.1")
    return environment.get(peer_variable(caller, callee), "") or f"{host}:{_port(environment, variable, usual)}"


def _gateway(environment: Mapping[str, str]) -> str:
    (one,) = replicas(("gateway",))
    return f"{environment.get('SHOP_HOST', '127.0.0.1')}:{_port(environment, port_variable(one), one.port)}"


def _seconds(environment: Mapping[str, str], variable: str, usual: str) -> float:
    value = environment.get(variable, usual)
    try:
        return float(value)
    except ValueError:
        raise BadSettings(f"{variable} is {value!r}: how many seconds?") from None


def _count(environment: Mapping[str, str], variable: str, usual: str) -> int:
    value = environment.get(variable, usual)
    if not value.isdecimal() or not int(value):
        raise BadSettings(f"{variable} is {value!r}: how many?")
    return int(value)


def _port(environment: Mapping[str, str], variable: str, usual: int) -> int:
    value = environment.get(variable, str(usual))
    if not value.isdecimal() or not 0 < int(value) < 65_536:
        raise BadSettings(f"{variable} is {value!r}: no TCP port")
    return int(value)
