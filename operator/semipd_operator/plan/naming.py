"""Names, labels and ports of what belongs to a service."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from semipd_core.api.fields import GROUP

HTTP_PORT = 8000  # OpenAI
AGENT_PORT = 8001  # windows, status, readiness, metrics
CHILD_MANAGER = "semipd-operator"  # field manager of children
STATUS_MANAGER = "semipd-operator-status"
SEED_MANAGER = "semipd-operator-seed"  # of the first spec.replicas
SCALE_MANAGER = "semipd-operator-autoscale"  # of spec.replicas under an autoscale block

SERVICE_LABEL = f"{GROUP}/service"
COMPONENT_LABEL = "app.kubernetes.io/component"
PAUSE_ANNOTATION = f"{GROUP}/paused"
PIN_ANNOTATION = f"{GROUP}/pinned-split"
SKIP_ANNOTATION = f"{GROUP}/skip-canary"  # of a service: new pod templates go to all pods at once
TEMPLATE_ANNOTATION = f"{GROUP}/template"  # of a workload and its revisions: digest of the pod template
HASH_LABEL = "pod-template-hash"  # of a ReplicaSet and its pods, by Kubernetes
ENGINE, PROXY = "engine", "proxy"
PROXY_SUFFIX, ENGINES_SUFFIX = (
    "-proxy",
    "-engines",
)  # of the proxies' children, and of the Service that they find engines by
MAX_NAME = 63


def child_name(service: str, suffix: str) -> str:
    """A DNS label; a service's name that leaves no room is shortened and told apart by its hash."""
    if len(service) + len(suffix) <= MAX_NAME:
        return service + suffix
    digest = hashlib.sha256(service.encode()).hexdigest()[:8]
    return f"{service[: MAX_NAME - len(suffix) - 9]}-{digest}{suffix}"


def selector(service: str, component: str = ENGINE) -> dict[str, str]:
    """Never a version: a Deployment's selector cannot change."""
    return {SERVICE_LABEL: service, COMPONENT_LABEL: component}


def labels(service: str, component: str = ENGINE) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "semipd",
        "app.kubernetes.io/instance": service,
        "app.kubernetes.io/part-of": "semipd",
        "app.kubernetes.io/managed-by": CHILD_MANAGER,
        **selector(service, component),
    }


def selector_text(pairs: Mapping[str, str]) -> str:
    """As `/scale` wants it."""
    return ",".join(f"{key}={value}" for key, value in sorted(pairs.items()))
