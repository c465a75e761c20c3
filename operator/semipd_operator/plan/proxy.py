"""The proxies of a service with `routing: Proxy`: their Deployment, what they may read, and where they find the engines."""

from __future__ import annotations

from semipd_core.agent_config import ENDPOINT_LAG_S
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.naming import (
    AGENT_PORT,
    ENGINES_SUFFIX,
    HTTP_PORT,
    PROXY,
    PROXY_SUFFIX,
    child_name,
    labels,
    selector,
)
from semipd_operator.plan.pod import Manifest, container_security, pod_security, tolerations
from semipd_operator.plan.routing import Route
from semipd_operator.plan.workload import disruption_budget, metadata

REPLICAS = 2
STOP_S = 10
PROGRESS_DEADLINE_S = 120
REVISIONS_KEPT = 3


def build_proxy_children(effective: Effective, route: Route, image: str | None) -> list[Manifest]:
    """In the order of need; nothing of them concerns the engines, and nothing of the engines' spec restarts them."""
    children: list[Manifest] = []
    if route.has_endpoints:
        children += [*_access(effective), _engines_service(effective)]
    if route.has_proxies and image is not None:
        children += [
            _network_policy(effective),
            disruption_budget(effective, PROXY, PROXY_SUFFIX),
            _deployment(effective, image),
        ]
    return children


def _access(effective: Effective) -> list[Manifest]:
    """RBAC cannot name the slices of one Service: their names are made up."""
    name = child_name(effective.name, PROXY_SUFFIX)
    api_group = "rbac.authorization.k8s.io"
    own = metadata(effective, PROXY_SUFFIX, PROXY)
    rules = [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": own,
            "automountServiceAccountToken": False,
        },
        {"apiVersion": f"{api_group}/v1", "kind": "Role", "metadata": own, "rules": rules},
        {
            "apiVersion": f"{api_group}/v1",
            "kind": "RoleBinding",
            "metadata": own,
            "roleRef": {"apiGroup": api_group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": effective.namespace}],
        },
    ]


def _engines_service(effective: Effective) -> Manifest:
    """Without an address of its own: it is there for its EndpointSlices."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(effective, ENGINES_SUFFIX),
        "spec": {
            "clusterIP": "None",
            "selector": selector(effective.name),
            "ports": [
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
                {"name": "agent", "port": AGENT_PORT, "targetPort": "agent", "protocol": "TCP"},
            ],
        },
    }


def _network_policy(effective: Effective) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(effective, PROXY_SUFFIX, PROXY),
        "spec": {
            "podSelector": {"matchLabels": selector(effective.name, PROXY)},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": HTTP_PORT, "protocol": "TCP"}]}],
        },
    }


def _deployment(effective: Effective, image: str) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(effective, PROXY_SUFFIX, PROXY),
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": selector(effective.name, PROXY)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
            "revisionHistoryLimit": REVISIONS_KEPT,
            "template": {
                "metadata": {"labels": labels(effective.name, PROXY)},
                "spec": _pod(effective, image),
            },
        },
    }


def _pod(effective: Effective, image: str) -> Manifest:
    """Of the service's scheduling only what lets a pod start: the node selectors are for GPUs."""
    scheduling, drain_s = effective.spec.scheduling, effective.spec.drain.timeout_seconds
    spec: Manifest = {
        "serviceAccountName": child_name(effective.name, PROXY_SUFFIX),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ENDPOINT_LAG_S + drain_s + STOP_S,
        "securityContext": pod_security(),
        "containers": [_container(effective, image)],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(effective.name, PROXY)},
                "matchLabelKeys": ["pod-template-hash"],
            }
        ],
    }
    if scheduling.tolerations:
        spec["tolerations"] = tolerations(scheduling)
    if scheduling.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": ref.name} for ref in scheduling.image_pull_secrets]
    return spec


def _container(effective: Effective, image: str) -> Manifest:
    arguments = {
        "--service": child_name(effective.name, ENGINES_SUFFIX),
        "--namespace": effective.namespace,
        "--port": HTTP_PORT,
        "--lag-s": ENDPOINT_LAG_S,
        "--drain-s": effective.spec.drain.timeout_seconds,
    }
    return {
        "name": "proxy",
        "image": image,
        "command": ["python", "-m", "semipd_engine.proxy"],
        "args": [str(each) for pair in arguments.items() for each in pair],
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"memory": "1Gi"}},
        "readinessProbe": {
            **_probe("/ready"),
            "periodSeconds": 2,
            "failureThreshold": 2,
            "timeoutSeconds": 2,
        },
        "livenessProbe": {**_probe("/health"), "periodSeconds": 10, "failureThreshold": 6},
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}}
