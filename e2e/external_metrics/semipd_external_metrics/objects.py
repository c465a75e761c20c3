"""What makes the API server ask us: an APIService, and a Service that leads to this machine.

An ExternalName is resolved by the API server itself: no proxy, no pod network and no endpoints are needed, and the certificate is
still checked, against SERVICE.NAMESPACE.svc.
"""

from __future__ import annotations

import base64
from typing import Any

from semipd_external_metrics.samples import GROUP_VERSION

NAMESPACE, NAME = "kube-system", "semipd-external-metrics"
SERVER_NAME = f"{NAME}.{NAMESPACE}.svc"


def build_objects(host: str, port: int, authority: bytes) -> dict[str, Any]:
    """A List. `host`: a name by which the API server reaches us; `authority`: the certificate that signed ours, PEM."""
    group, version = GROUP_VERSION.split("/")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": host, "ports": [{"port": port}]},
    }
    api_service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}"},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "caBundle": base64.b64encode(authority).decode(),
            "service": {"name": NAME, "namespace": NAMESPACE, "port": port},
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [service, api_service]}
