"""The API server's objects as values. The CRDs may be newer than this plugin: a field that it does not know is left out.

Labels and ports are the operator's contract; tests hold them to its own constants.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semipd_core.api import codec, shape
from semipd_core.api.fields import GROUP, ShareBounds
from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import CanaryStage, SemiPDService
from semipd_core.api.service_class import ClassSpec, SemiPDClass
from semipd_core.errors import InvalidSpec
from semipd_core.telemetry import EngineReport

SERVICE_LABEL = f"{GROUP}/service"
ENGINES = "app.kubernetes.io/component=engine"
PAUSE_ANNOTATION = f"{GROUP}/paused"
PIN_ANNOTATION = f"{GROUP}/pinned-split"
AGENT_PORT_NAME, AGENT_PORT = "agent", 8001
NO_ANSWER = "no answer in time"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    name: str
    node: str | None = None
    address: str | None = None
    is_ready: bool = False
    is_leaving: bool = False
    problem: str | None = None  # why it does not start, in the words of the scheduler or the kubelet
    restarts: int = 0
    agent_port: int = AGENT_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """`cls` is None where there is none; `is_class_known` False: classes are cluster-wide, and the caller may not read them."""

    service: SemiPDService
    pods: tuple[PodView, ...] = ()
    partitions: Mapping[str, SemiPDPartition] = field(default_factory=dict)  # by name, which is the pod's
    cls: SemiPDClass | None = None
    is_class_known: bool = True

    @property
    def name(self) -> str:
        return self.service.metadata.name

    @property
    def namespace(self) -> str:
        return self.service.metadata.namespace or "default"

    @property
    def class_spec(self) -> ClassSpec | None:
        """The class in force: without any, the built-in one. None where it is not known, or named and missing."""
        if self.cls is not None:
            return self.cls.spec
        return ClassSpec() if self.is_class_known and self.service.spec.class_ref is None else None

    @property
    def bounds(self) -> ShareBounds:
        """The service's own, cut to those of its class where that is known."""
        own = self.service.spec.partition.bounds
        limits = self.class_spec.bounds if self.class_spec is not None else own
        return ShareBounds(
            prefill_min_percent=max(own.prefill_min_percent, limits.prefill_min_percent),
            prefill_max_percent=min(own.prefill_max_percent, limits.prefill_max_percent),
            decode_min_percent=max(own.decode_min_percent, limits.decode_min_percent),
            decode_max_percent=min(own.decode_max_percent, limits.decode_max_percent),
        )

    @property
    def canaries(self) -> frozenset[str]:
        """Names of the pods that try a split: those of the status (the first ones), and all that ask for its decision."""
        canary = self.service.status.canary if self.service.status is not None else None
        if canary is None or canary.stage is CanaryStage.ROLLED_BACK:
            return frozenset()
        asking = {
            name
            for name, partition in self.partitions.items()
            if partition.spec.decision_id == canary.decision_id
        }
        return frozenset(pod.name for pod in self.pods if pod.name in asking.union(canary.pods))

    @property
    def pin(self) -> str | None:
        """As the annotation has it, legal or not."""
        return self.service.metadata.annotations.get(PIN_ANNOTATION)

    @property
    def is_paused(self) -> bool:
        return self.service.metadata.annotations.get(PAUSE_ANNOTATION) == "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Services in order of namespace and name; `unreadable`: why others are missing here."""

    services: tuple[ServiceView, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodWindow:
    """`problem` says why there are no reports. `date_s`: the pod's clock as it answered, unix time."""

    reports: tuple[EngineReport, ...] = ()
    problem: str | None = None
    date_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """By (namespace, pod). `now_s`: the middle clock of the answers, as this machine's may be another."""

    pods: dict[tuple[str, str], PodWindow]
    now_s: float


def read_service(found: Object) -> SemiPDService:
    """Raises: InvalidSpec."""
    return codec.decode_service(shape.known_part(_trimmed(found), SemiPDService))


def read_class(found: Object) -> SemiPDClass:
    """Raises: InvalidSpec."""
    return codec.decode_class(shape.known_part(_trimmed(found), SemiPDClass))


def read_partition(found: Object) -> SemiPDPartition:
    """Raises: InvalidSpec."""
    return codec.read_partition(_trimmed(found))


def read_pod(found: Object) -> PodView:
    metadata, spec, status = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    containers = status.get("containerStatuses") or []
    return PodView(
        name=metadata["name"],
        node=spec.get("nodeName"),
        address=status.get("podIP"),
        is_ready=_condition(found, "Ready").get("status") == "True",
        is_leaving="deletionTimestamp" in metadata,
        problem=_problem(found),
        restarts=sum(container.get("restartCount", 0) for container in containers),
        agent_port=_agent_port(spec),
    )


def service_of(found: Object) -> str | None:
    """The name of the service that a pod or a partition belongs to."""
    name: str | None = found["metadata"].get("labels", {}).get(SERVICE_LABEL)
    return name


def build_fleet(
    services: Sequence[Object],
    pods: Sequence[Object],
    partitions: Sequence[Object],
    classes: Sequence[Object] | None,
) -> Fleet:
    """What belongs together, by namespace and label. `classes` None: not known."""
    views, unreadable = [], []
    readable_classes = [cls for cls in (_class_or_none(found) for found in classes or ()) if cls is not None]
    pods_of, partitions_of = _by_service(pods), _by_service(partitions)
    for found in sorted(services, key=_key):
        key = _key(found)
        try:
            service = read_service(found)
            decoded = {each["metadata"]["name"]: read_partition(each) for each in partitions_of.get(key, ())}
        except InvalidSpec as error:
            unreadable.append(f"{'/'.join(key)} cannot be read: {error}")
            continue
        views.append(
            ServiceView(
                service=service,
                pods=tuple(sorted(map(read_pod, pods_of.get(key, ())), key=lambda pod: pod.name)),
                partitions=decoded,
                cls=class_of(service, readable_classes),
                is_class_known=classes is not None,
            )
        )
    return Fleet(services=tuple(views), unreadable=tuple(unreadable))


def class_of(service: SemiPDService, classes: list[SemiPDClass]) -> SemiPDClass | None:
    """The one that it names, else the youngest default one, as the operator chooses."""
    ref = service.spec.class_ref
    if ref is not None:
        return next((cls for cls in classes if cls.metadata.name == ref.name), None)
    defaults = sorted((cls for cls in classes if cls.is_default), key=lambda cls: cls.metadata.name)
    return max(defaults, key=lambda cls: cls.metadata.creation_timestamp or "", default=None)


def _class_or_none(found: Object) -> SemiPDClass | None:
    try:
        return read_class(found)
    except InvalidSpec:
        return None


def _key(found: Object) -> tuple[str, str]:
    return found["metadata"].get("namespace", "default"), found["metadata"]["name"]


def _by_service(those: Sequence[Object]) -> dict[tuple[str | None, str | None], list[Object]]:
    """By namespace and label, in one pass: a fleet has a thousand services and ten thousand pods."""
    found: dict[tuple[str | None, str | None], list[Object]] = defaultdict(list)
    for each in those:
        found[each["metadata"].get("namespace"), service_of(each)].append(each)
    return found


def _trimmed(found: Object) -> Object:
    metadata = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    return {**found, "metadata": metadata}


def _agent_port(spec: Object) -> int:
    for container in spec.get("containers") or []:
        for port in container.get("ports") or []:
            if port.get("name") == AGENT_PORT_NAME:
                return int(port["containerPort"])
    return AGENT_PORT


def _problem(pod: Object) -> str | None:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}".rstrip(": ")
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            last = ((container.get("lastState") or {}).get("terminated") or {}).get("message", "")
            return f"{waiting['reason']}: {last.strip() or waiting.get('message', '')}".rstrip(": ")
    return None


def _condition(found: Object, kind: str) -> Mapping[str, str]:
    conditions = (found.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == kind), {})
