"""Inventory's stock for a browser: how Envoy stands before its replicas, and turns gRPC-Web into gRPC.

    envoy = await supervisor.start("envoy", settings=grpc_web.settings(replicas, origin="http://127.0.0.1:3003"))

A browser cannot read the trailers of HTTP/2, so the status comes in the body, as the last frame. It can watch, and
nothing else: no other call of inventory has a route here. A replica that says of itself that it is not ready, by
`grpc.health.v1`, is given no calls. Envoy takes 64 MB; nothing starts it unless it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultline.components.envoy import GRPC_WEB, HTTP2, cluster, cors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faultline.components.component import Address

SERVICE = "faultline.inventory.v1.Inventory"
CALLS = ("WatchStock",)
ASKED = "content-type,x-grpc-web,x-user-agent,grpc-timeout,x-request-id"
TOLD = "grpc-status,grpc-message,grpc-status-details-bin"


def settings(upstreams: Sequence[Address], *, origin: str) -> dict[str, object]:
    """Of the component `envoy`, before these gRPC servers of inventory, for pages of this origin."""
    forever = {
        "cluster": "inventory",
        "timeout": "0s",  # a stream has no end
        "idle_timeout": "150s",  # it has heart-beats, of 60 s at most
        "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},  # nobody has seen it yet
    }
    routes = [{"match": {"path": f"/{SERVICE}/{call}"}, "route": forever} for call in CALLS]
    host = {"name": "inventory", "domains": ["*"], "routes": routes, **cors(origin, headers=ASKED, exposed=TOLD)}
    health = {
        "timeout": "2s",
        "interval": "1s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "grpc_health_check": {"service_name": SERVICE},
    }
    inventory = cluster("inventory", *upstreams, health_checks=[health], **HTTP2)
    return {"virtual_hosts": [host], "clusters": [inventory], "http_filters": GRPC_WEB}
