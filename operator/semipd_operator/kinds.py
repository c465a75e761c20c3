"""The kinds that the operator reads and writes, all as plain mappings: it passes objects on more than it looks into them."""

from __future__ import annotations

from typing import Any

from lightkube.generic_resource import create_global_resource, create_namespaced_resource

from semipd_core.api.fields import GROUP

SERVICE: Any = create_namespaced_resource(GROUP, "v1alpha1", "SemiPDService", "semipdservices")
PARTITION: Any = create_namespaced_resource(GROUP, "v1alpha1", "SemiPDPartition", "semipdpartitions")
CLASS: Any = create_global_resource(GROUP, "v1alpha1", "SemiPDClass", "semipdclasses")
DEPLOYMENT: Any = create_namespaced_resource("apps", "v1", "Deployment", "deployments")
DAEMON_SET: Any = create_namespaced_resource("apps", "v1", "DaemonSet", "daemonsets")
REPLICA_SET: Any = create_namespaced_resource("apps", "v1", "ReplicaSet", "replicasets")
POD: Any = create_namespaced_resource("", "v1", "Pod", "pods")
K8S_SERVICE: Any = create_namespaced_resource("", "v1", "Service", "services")
SERVICE_ACCOUNT: Any = create_namespaced_resource("", "v1", "ServiceAccount", "serviceaccounts")
ROLE: Any = create_namespaced_resource("rbac.authorization.k8s.io", "v1", "Role", "roles")
ROLE_BINDING: Any = create_namespaced_resource(
    "rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"
)
NETWORK_POLICY: Any = create_namespaced_resource(
    "networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"
)
DISRUPTION_BUDGET: Any = create_namespaced_resource(
    "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"
)
POD_MONITOR: Any = create_namespaced_resource("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors")
INFERENCE_POOL: Any = create_namespaced_resource(
    "inference.networking.k8s.io", "v1", "InferencePool", "inferencepools"
)
LEASE: Any = create_namespaced_resource("coordination.k8s.io", "v1", "Lease", "leases")
EVENT: Any = create_namespaced_resource("events.k8s.io", "v1", "Event", "events")

# Children whose changes are a reason to look at their service.
WATCHED: dict[str, Any] = {
    "Deployment": DEPLOYMENT,
    "DaemonSet": DAEMON_SET,
    "Service": K8S_SERVICE,
    "ServiceAccount": SERVICE_ACCOUNT,
    "Role": ROLE,
    "RoleBinding": ROLE_BINDING,
    "NetworkPolicy": NETWORK_POLICY,
    "PodDisruptionBudget": DISRUPTION_BUDGET,
}
# Children too, where the cluster has the kind.
OPTIONAL: dict[str, Any] = {"PodMonitor": POD_MONITOR, "InferencePool": INFERENCE_POOL}
BY_KIND: dict[str, Any] = {
    **WATCHED,
    **OPTIONAL,
    "SemiPDPartition": PARTITION,
    "SemiPDService": SERVICE,
}
