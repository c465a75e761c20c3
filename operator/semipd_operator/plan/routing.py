"""Who answers at a service's address, and which of the proxies' children must be there? Pure, on observed state.

The address moves to the proxies only once they are ready, and they go only once it has moved away from them: in between
both are there, so that a change of `routing` has somebody to answer at every moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from semipd_core.api.service import Routing
from semipd_operator.plan.naming import ENGINE, PROXY
from semipd_operator.plan.observed import ProxiesView


class RouteReason(StrEnum):
    """Of the condition Routed."""

    TO_ENGINES = "EnginesAnswer"
    PROXIES_READY = "ProxiesReady"
    PROXIES_STARTING = "ProxiesStarting"
    PROXIES_LOST = "ProxiesLost"
    NO_IMAGE = "NoProxyImage"
    NO_POOL_KIND = "NoInferencePoolKind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`has_endpoints`: what running proxies read, and their right to; it outlives their Deployment until the last pod is gone."""

    backend: str  # the component that the Service selects
    has_proxies: bool
    has_endpoints: bool
    is_as_asked: bool
    reason: RouteReason
    message: str = ""


def decide_route(
    routing: Routing, proxies: ProxiesView, *, has_image: bool = True, has_pool_kind: bool = True
) -> Route:
    if routing is Routing.PROXY and has_image:
        return _to_proxies(proxies)
    if routing is Routing.PROXY:
        message = "the operator knows no image of the proxy: SEMIPD_OPERATOR_PROXY_IMAGE is not set"
        return _to_engines(proxies, RouteReason.NO_IMAGE, message, is_as_asked=False)
    if routing is Routing.INFERENCE_POOL and not has_pool_kind:
        message = "the cluster has no inferencepools.inference.networking.k8s.io"
        return _to_engines(proxies, RouteReason.NO_POOL_KIND, message, is_as_asked=False)
    return _to_engines(proxies, RouteReason.TO_ENGINES, "", is_as_asked=True)


def _to_engines(proxies: ProxiesView, reason: RouteReason, message: str, *, is_as_asked: bool) -> Route:
    return Route(
        backend=ENGINE,
        has_proxies=proxies.answer,
        has_endpoints=proxies.answer or proxies.pods > 0,
        is_as_asked=is_as_asked,
        reason=reason,
        message=message,
    )


def _to_proxies(proxies: ProxiesView) -> Route:
    """Proxies that answer go on answering while one of them is ready; the first time, all of them must be."""
    workload = proxies.workload
    if workload is None:
        return _waiting(RouteReason.PROXIES_STARTING, "the proxies are being made")
    said = f"{workload.ready} of {workload.desired} proxies are ready"
    are_all = workload.is_current and workload.ready >= workload.desired
    are_enough = are_all or proxies.answer or workload.is_stuck
    if workload.ready > 0 and are_enough:
        return Route(
            backend=PROXY,
            has_proxies=True,
            has_endpoints=True,
            is_as_asked=True,
            reason=RouteReason.PROXIES_READY,
            message=said,
        )
    if proxies.answer:
        return _waiting(RouteReason.PROXIES_LOST, said)
    return _waiting(RouteReason.PROXIES_STARTING, said)


def _waiting(reason: RouteReason, said: str) -> Route:
    return Route(
        backend=ENGINE,
        has_proxies=True,
        has_endpoints=True,
        is_as_asked=False,
        reason=reason,
        message=f"{said}; until then the Service selects the engines",
    )
