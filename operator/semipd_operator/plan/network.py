"""How requests reach a service's pods, and who may reach its agents."""

from __future__ import annotations

from collections.abc import Collection

from semipd_operator.plan.effective import Effective
from semipd_operator.plan.naming import AGENT_PORT, ENGINE, HTTP_PORT, PROXY, selector
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.workload import metadata

OPERATOR_LABELS = {"app.kubernetes.io/name": "semipd", "app.kubernetes.io/component": "operator"}
SERVICE_PORT = 80


def build_service(effective: Effective, backend: str = ENGINE) -> Manifest:
    """The address of the service. `backend`: the component that answers there."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(effective),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(effective.name, backend),
            "ports": [
                {
                    "name": "http",
                    "port": SERVICE_PORT,
                    "targetPort": "http",
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }


def build_network_policy(
    effective: Effective,
    operator_namespace: str,
    api_server_cidrs: Collection[str] = (),
    *,
    has_proxies: bool = False,
) -> Manifest:
    """Requests from anywhere; the agents' port, which tells loads and takes no orders, for operator, proxies and scrapes.

    And for the API servers, whose hosts are no pods that a label could name: `kubectl semipd top` asks through their pod proxy.

    With proxies too requests may come from anywhere: while `routing` changes they do, and a proxy guards nothing.

    Egress is left free: models come from the network, and what a cluster may reach is not this service's to say.
    """
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {"matchLabels": OPERATOR_LABELS},
    }
    proxies = [{"podSelector": {"matchLabels": selector(effective.name, PROXY)}}] if has_proxies else []
    api_servers = [{"ipBlock": {"cidr": cidr}} for cidr in api_server_cidrs]
    scrapers = {"namespaceSelector": {"matchLabels": {"semipd.io/scrapes-metrics": "true"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(effective),
        "spec": {
            "podSelector": {"matchLabels": selector(effective.name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": HTTP_PORT, "protocol": "TCP"}]},
                {
                    "ports": [{"port": AGENT_PORT, "protocol": "TCP"}],
                    "from": [operator, scrapers, *proxies, *api_servers],
                },
            ],
        },
    }
