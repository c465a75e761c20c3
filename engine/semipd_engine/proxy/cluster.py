"""The proxy before the pods of one service: its upstreams are the endpoints of a Service."""

from __future__ import annotations

from dataclasses import dataclass

from lightkube import ConfigError

from semipd_core.errors import InvalidSpec
from semipd_core.routing.choice import Bounds
from semipd_engine.frontend.listener import bind_tcp
from semipd_engine.proxy.endpoint_watch import EndpointWatch
from semipd_engine.proxy.load_watch import LoadWatch
from semipd_engine.proxy.serving import Drain, build_proxy
from semipd_engine.proxy.upstreams import Upstreams
from semipd_shell.api_client import open_api_client


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    namespace: str
    service: str  # whose EndpointSlices name the pods
    host: str
    port: int
    drain: Drain
    bounds: Bounds


async def run_in_cluster(settings: ClusterSettings) -> None:
    """Serve until SIGTERM and the drain that follows. Raises: InvalidSpec."""
    try:
        client = open_api_client()
    except ConfigError as error:
        allowed = "a cluster: the token of the pod's service account, or a kubeconfig"
        raise InvalidSpec("KUBECONFIG", str(error), allowed) from None
    upstreams = Upstreams()
    endpoints = EndpointWatch(client, settings.namespace, settings.service, upstreams)
    # Without a pod it is ready and answers 503, which says more than a refused connection.
    proxy = build_proxy(upstreams, lambda: endpoints.is_listed, settings.bounds)
    listening = bind_tcp(settings.host, settings.port)
    await proxy.serve(
        listening, settings.drain, [endpoints.run(proxy.connections), LoadWatch(upstreams).run()]
    )
    await client.aclose()
