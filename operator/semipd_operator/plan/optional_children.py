"""Children of other projects' kinds: built where the kind is there."""

from __future__ import annotations

import re
from collections.abc import Collection

from semipd_core.api.service import Routing
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.naming import (
    COMPONENT_LABEL,
    HTTP_PORT,
    PROXY,
    PROXY_SUFFIX,
    SERVICE_LABEL,
    selector,
)
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.workload import metadata

POD_MONITOR = "monitoring.coreos.com/v1/PodMonitor"
INFERENCE_POOL = "inference.networking.k8s.io/v1/InferencePool"
TARGET_LABELS = {"service": SERVICE_LABEL, "component": COMPONENT_LABEL}  # of Prometheus, and of the pods
PICKER_PORT = 9002  # of an endpoint picker's ext-proc server


def build_optional(effective: Effective, kinds: Collection[str], *, has_proxies: bool) -> list[Manifest]:
    """`kinds`: those of the constants above that the cluster has."""
    children = []
    if POD_MONITOR in kinds:
        children.append(_pod_monitor(effective))
        if has_proxies:
            children.append(_proxy_monitor(effective))
    if effective.spec.routing is Routing.INFERENCE_POOL and INFERENCE_POOL in kinds:
        children.append(_inference_pool(effective))
    return children


def _pod_monitor(effective: Effective) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(effective),
        "spec": {
            "selector": {"matchLabels": selector(effective.name)},
            "podMetricsEndpoints": [_endpoint("agent"), _endpoint("http")],
        },
    }


def _proxy_monitor(effective: Effective) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(effective, PROXY_SUFFIX, PROXY),
        "spec": {
            "selector": {"matchLabels": selector(effective.name, PROXY)},
            "podMetricsEndpoints": [_endpoint("http")],
        },
    }


def _endpoint(port: str) -> Manifest:
    """Alerts and dashboard tell services, engines and proxies apart by the labels that this adds to every series."""
    relabelings = [
        {"sourceLabels": [f"__meta_kubernetes_pod_label_{_sanitized(label)}"], "targetLabel": target}
        for target, label in TARGET_LABELS.items()
    ]
    return {"port": port, "path": "/metrics", "relabelings": relabelings}


def _sanitized(label: str) -> str:
    """As Prometheus' discovery writes it."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _inference_pool(effective: Effective) -> Manifest:
    """The endpoint picker is the platform's; by convention its Service is the pool's name with `-epp`."""
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": metadata(effective),
        "spec": {
            "selector": {"matchLabels": selector(effective.name)},
            "targetPorts": [{"number": HTTP_PORT}],
            "endpointPickerRef": {"name": f"{effective.name}-epp", "port": {"number": PICKER_PORT}},
        },
    }
