"""All components there are, by name; a new one is a file and a line here."""

from collections.abc import Mapping
from dataclasses import fields

from faultline.components.alertmanager import Alertmanager
from faultline.components.component import Component
from faultline.components.envoy import Envoy
from faultline.components.errors import BadSettings, UnknownComponent
from faultline.components.nginx import Nginx
from faultline.components.node import Node
from faultline.components.opensearch import OpenSearch
from faultline.components.postgres import Postgres
from faultline.components.prometheus import Prometheus
from faultline.components.rabbitmq import RabbitMQ
from faultline.components.redis import Redis
from faultline.components.zipkin import Zipkin

CATALOG: Mapping[str, type[Component]] = {
    "redis": Redis,
    "postgres": Postgres,
    "rabbitmq": RabbitMQ,
    "prometheus": Prometheus,
    "alertmanager": Alertmanager,
    "opensearch": OpenSearch,
    "zipkin": Zipkin,
    "envoy": Envoy,
    "nginx": Nginx,
    "node": Node,
}


def describe(name: str) -> type[Component]:
    """The component of this name."""
    if name not in CATALOG:
        raise UnknownComponent(f"there is no component {name!r}; there are: {', '.join(CATALOG)}")
    return CATALOG[name]


def configure(name: str, settings: Mapping[str, object]) -> Component:
    """The component of this name with these settings."""
    component = describe(name)
    try:
        return component(**settings)
    except TypeError as error:
        raise BadSettings(f"{name}: {error}; it has {', '.join(_settings(component))}") from error


def _settings(component: type[Component]) -> list[str]:
    return [field.name for field in fields(component)]  # type: ignore[arg-type]  # a Protocol cannot demand a dataclass
