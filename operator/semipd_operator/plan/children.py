"""Everything that a service is made of."""

from __future__ import annotations

from collections.abc import Collection

from semipd_operator.plan.access import build_access
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.network import build_network_policy, build_service
from semipd_operator.plan.optional_children import build_optional
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.proxy import build_proxy_children
from semipd_operator.plan.routing import Route
from semipd_operator.plan.target import Target
from semipd_operator.plan.workload import build_disruption_budget, build_workload


def build_children(
    effective: Effective,
    *,
    operator_namespace: str,
    kinds: Collection[str],
    route: Route,
    target: Target,
    proxy_image: str | None = None,
    api_server_cidrs: Collection[str] = (),
) -> list[Manifest]:
    """In the order of need: an account before the pods that use it. `kinds` as in `optional_children`."""
    return [
        *build_access(effective),
        *build_proxy_children(effective, route, proxy_image),
        build_service(effective, route.backend),
        build_network_policy(
            effective, operator_namespace, api_server_cidrs, has_proxies=route.has_endpoints
        ),
        *build_disruption_budget(effective),
        build_workload(effective, target),
        *build_optional(effective, kinds, has_proxies=route.has_proxies),
    ]
