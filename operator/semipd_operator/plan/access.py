"""What a service's agents may do: read the partitions of their namespace, and write the status of one.

Role rules name resources, not pods: that an agent writes only the object of its own pod is for the ValidatingAdmissionPolicy
`semipd-agent-writes-its-own-partition`, which reads the pod's name from the bound token.
"""

from __future__ import annotations

from semipd_core.api.fields import GROUP
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.workload import metadata

PARTITIONS = "semipdpartitions"


def build_access(effective: Effective) -> list[Manifest]:
    return [_service_account(effective), _role(effective), _role_binding(effective)]


def _service_account(effective: Effective) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(effective),
        "automountServiceAccountToken": False,
    }


def _role(effective: Effective) -> Manifest:
    rules = [
        {"apiGroups": [GROUP], "resources": [PARTITIONS], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [GROUP], "resources": [f"{PARTITIONS}/status"], "verbs": ["patch"]},
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(effective),
        "rules": rules,
    }


def _role_binding(effective: Effective) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(effective),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": effective.name},
        "subjects": [
            {"kind": "ServiceAccount", "name": effective.name, "namespace": effective.namespace},
        ],
    }
