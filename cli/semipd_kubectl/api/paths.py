"""Where objects are found below the API server's root."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.api.fields import API_VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    """`group_version`: `v1`, or `group/version`."""

    group_version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        root = "/apis" if "/" in self.group_version else "/api"
        parts = [root, self.group_version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, sub) if part is not None]
        return "/".join(parts)


SERVICES = Kind(API_VERSION, "semipdservices")
PARTITIONS = Kind(API_VERSION, "semipdpartitions")
CLASSES = Kind(API_VERSION, "semipdclasses")
PODS = Kind("v1", "pods")
NODES = Kind("v1", "nodes")
DEPLOYMENTS = Kind("apps/v1", "deployments")
LEASES = Kind("coordination.k8s.io/v1", "leases")
CRDS = Kind("apiextensions.k8s.io/v1", "customresourcedefinitions")
POLICIES = Kind("admissionregistration.k8s.io/v1", "validatingadmissionpolicies")
POLICY_BINDINGS = Kind("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings")
RUNTIME_CLASSES = Kind("node.k8s.io/v1", "runtimeclasses")
SELF_REVIEWS = Kind("authorization.k8s.io/v1", "selfsubjectaccessreviews")
REVIEWS = Kind("authorization.k8s.io/v1", "subjectaccessreviews")
VERSION = "/version"
