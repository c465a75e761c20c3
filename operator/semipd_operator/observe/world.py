"""Everything that is known of the cluster, and which service each piece belongs to. A change makes its service dirty."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from lightkube import AsyncClient

from semipd_core.api import codec
from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import SemiPDService
from semipd_core.api.service_class import SemiPDClass
from semipd_core.errors import InvalidSpec
from semipd_operator import kinds
from semipd_operator.observe.child import ChildView
from semipd_operator.observe.trim import (
    is_news,
    plain,
    trim_child,
    trim_partition,
    trim_pod,
    trim_replica_set,
    trim_service,
)
from semipd_operator.plan.class_status import Deployed
from semipd_operator.plan.naming import (
    CHILD_MANAGER,
    COMPONENT_LABEL,
    ENGINE,
    HASH_LABEL,
    PROXY,
    PROXY_SUFFIX,
    SERVICE_LABEL,
    child_name,
)
from semipd_operator.plan.observed import (
    Observed,
    PodView,
    ProxiesView,
    RevisionView,
    WorkloadView,
    owns_replicas,
    view_replicas_owner,
    view_revision,
    view_workload,
    workload_kind,
)
from semipd_operator.plan.observed_class import ClassView, holds_otherwise, view_class
from semipd_shell import log
from semipd_shell.informer import Informer, Key

_log = log.logger(__name__)

Object = Mapping[str, Any]
ChildName = tuple[str, str]  # kind, name
MANAGED = {"app.kubernetes.io/managed-by": CHILD_MANAGER}


class World:
    """`namespace` None: the whole cluster. `on_dirty` gets a service's key, or None for all services.

    `on_gone` gets the kind and the key of each object that was deleted; `on_class` is called when a class is another one.
    """

    def __init__(
        self,
        client: AsyncClient,
        namespace: str | None,
        on_dirty: Callable[[Key | None], None],
        on_gone: Callable[[str, Key], None] = lambda _kind, _key: None,
        on_class: Callable[[], None] = lambda: None,
    ) -> None:
        self.services: dict[Key, Object] = {}
        self._read: dict[Key, tuple[Object, SemiPDService]] = {}  # what each was when it was read
        self.class_views: dict[str, ClassView] = {}
        self._on_class = on_class
        self._on_dirty = on_dirty
        self._on_gone = on_gone
        self._of_service: dict[str, dict[Key, dict[Key, Object]]] = defaultdict(
            dict
        )  # kind: service: objects
        self._client, self._namespace = client, namespace
        self._child_kinds = list(kinds.WATCHED)
        self.informers = [
            self._informer(kinds.POD, "Pod", trim_pod, {SERVICE_LABEL: None}),
            self._informer(kinds.REPLICA_SET, "ReplicaSet", trim_replica_set, MANAGED),
            self._informer(kinds.PARTITION, "SemiPDPartition", trim_partition, None),
            *(
                self._informer(resource, kind, partial(trim_child, kind), MANAGED)
                for kind, resource in kinds.WATCHED.items()
            ),
        ]

    def watch_optional(self, kind: str) -> Informer:
        """Children of a kind that the cluster turned out to have: to be run, and listed before anything is written."""
        self._child_kinds.append(kind)
        return self._informer(kinds.OPTIONAL[kind], kind, partial(trim_child, kind), MANAGED)

    def forget_optional(self, kind: str) -> None:
        """The kind is gone, and its objects with it; what is known of them leads to no write."""
        self._child_kinds.remove(kind)
        self._of_service.pop(kind, None)

    def _informer(
        self,
        resource: Any,
        kind: str,
        keep: Callable[[Object], Object],
        labels: dict[str, Any] | None,
    ) -> Informer:
        def changed(key: Key, before: Object | None, now: Object | None) -> None:
            self._note(kind, key, before, now)

        return Informer(self._client, resource, changed, namespace=self._namespace, labels=labels, keep=keep)

    # --- what comes in --------------------------------------------------------------------------------------

    def note_service(self, key: Key, found: Object | None) -> None:
        if found is None:
            self.services.pop(key, None)
            self._read.pop(key, None)
        else:
            self.services[key] = trim_service(found)
        self._on_dirty(key)

    def note_written(self, key: Key, before: Object | None, written: Object) -> None:
        """The answer to our own write. `before`: what was known when it was sent; what has come meanwhile is kept.

        The watch brings it again, and a turn with it, but may be a minute late: until then a status that has become another one
        would be taken for written.
        """
        if before is not None and self.services.get(key) is before:
            self.services[key] = trim_service(plain(written))

    def note_class(self, name: str, found: Object | None) -> None:
        """Services are looked at again if it holds otherwise for them: the counts in its status are no reason."""
        before = self.class_views.pop(name, None)
        now = view_class(found, before) if found is not None else None
        if now is not None:
            self.class_views[name] = now
            if now.defect is not None:
                _log.error("class not read", name=name, problem=str(now.defect))
        if holds_otherwise(before, now):
            self._on_dirty(None)
        self._on_class()

    def _note(self, kind: str, key: Key, before: Object | None, now: Object | None) -> None:
        if now is None:
            self._on_gone(kind, key)
        for found in (before, now):
            service = _service_of(key, found)
            if service is None:
                continue
            held = self._of_service[kind].setdefault(service, {})
            if found is now:
                held[key] = found  # type: ignore[assignment]
            else:
                held.pop(key, None)
            if not held:
                del self._of_service[kind][service]
            if is_news(before, now):
                self._on_dirty(service)

    # --- what is there ----------------------------------------------------------------------------------------

    @property
    def classes(self) -> dict[str, SemiPDClass]:
        """As they hold."""
        return {name: view.form for name, view in self.class_views.items() if view.form is not None}

    def deployed(self) -> list[Deployed]:
        """All services that can be read."""
        found = []
        for key in self.services:
            with contextlib.suppress(InvalidSpec):
                service = self.service(key)
                workload = self.workload(key, service)
                found.append(Deployed(service=service, pods=workload.desired if workload else 0))
        return found

    def observe(self, key: Key) -> Observed:
        """Raises: KeyError if the service is gone, InvalidSpec if it cannot be read."""
        service = self.service(key)
        return Observed(
            service=service,
            workload=self.workload(key, service),
            pods=tuple(sorted(self.pods(key), key=lambda pod: pod.name)),
            partitions=self.partitions(key),
            replicas_owners=tuple(
                view_replicas_owner(entry)
                for entry in service.metadata.managed_fields
                if owns_replicas(entry)
            ),
            proxies=self.proxies(key),
            revisions=tuple(self.revisions(key)),
        )

    def service(self, key: Key) -> SemiPDService:
        """Read once for each of its forms. Raises: KeyError if it is gone, InvalidSpec if it cannot be read."""
        found = self.services[key]
        read = self._read.get(key)
        if read is None or read[0] is not found:
            read = self._read[key] = (found, codec.read_service(found))
        return read[1]

    def workload(self, key: Key, service: SemiPDService) -> WorkloadView | None:
        kind = workload_kind(service)
        found = self._of_service[kind].get(key, {}).get(key)
        return view_workload(found) if found is not None else None

    def pods(self, key: Key) -> list[PodView]:
        """Of engines."""
        templates = {each.hash: each.template for each in self.revisions(key)}
        return [
            replace(found["view"], template=templates.get(found["metadata"]["labels"].get(HASH_LABEL, "")))
            for found in self._with_component("Pod", key, ENGINE)
        ]

    def revisions(self, key: Key) -> list[RevisionView]:
        """Of engines, those that say which template they are; by their hash."""
        found = map(view_revision, self._with_component("ReplicaSet", key, ENGINE))
        return sorted((each for each in found if each is not None), key=lambda each: each.hash)

    def proxies(self, key: Key) -> ProxiesView:
        name = Key(key.namespace, child_name(key.name, PROXY_SUFFIX))
        workload = self._of_service["Deployment"].get(key, {}).get(name)
        service = self._of_service["Service"].get(key, {}).get(key, {})
        return ProxiesView(
            workload=view_workload(workload) if workload is not None else None,
            pods=len(self._with_component("Pod", key, PROXY)),
            answer=service.get("selector", {}).get(COMPONENT_LABEL) == PROXY,
        )

    def _with_component(self, kind: str, key: Key, component: str) -> list[Object]:
        held = self._of_service[kind].get(key, {}).values()
        return [each for each in held if each["metadata"]["labels"].get(COMPONENT_LABEL, ENGINE) == component]

    def partitions(self, key: Key) -> dict[str, SemiPDPartition]:
        """Those that can be read; an agent of another release may write what this one does not know."""
        held = self._of_service["SemiPDPartition"].get(key, {})
        return {name.name: item["partition"] for name, item in held.items() if item["partition"] is not None}

    def children(self, key: Key) -> dict[ChildName, ChildView]:
        return {
            (kind, item.name): found["view"]
            for kind in self._child_kinds
            for item, found in self._of_service[kind].get(key, {}).items()
        }


def _service_of(key: Key, found: Object | None) -> Key | None:
    if found is None:
        return None
    name = found["metadata"].get("labels", {}).get(SERVICE_LABEL)
    return Key(key.namespace, name) if name else None
