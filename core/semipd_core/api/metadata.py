"""Object metadata as Kubernetes returns it.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from semipd_core.api.fields import DnsLabel, DnsSubdomain, ServiceName
from semipd_core.api.wire import wire


@wire
class OwnerRef:
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


@wire
class ObjectMeta:
    """Names are DNS labels, as children are named after the object. Times are RFC 3339."""

    name: DnsLabel
    namespace: DnsLabel | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    generate_name: str | None = None
    self_link: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerRef, ...] = ()
    managed_fields: tuple[Mapping[str, object], ...] = ()


@wire
class PodObjectMeta(ObjectMeta):
    """Metadata of an object that is named after a pod."""

    name: DnsSubdomain


@wire
class ServiceObjectMeta(ObjectMeta):
    """Metadata of an object that a Service of Kubernetes is named after, which needs a letter first (RFC 1035)."""

    name: ServiceName
