"""`pin`: which splits may be pinned, and have all pods granted it?"""

from __future__ import annotations

import re
from dataclasses import replace

from semipd_core.api.conditions import ConditionStatus, ConditionType, find_condition
from semipd_core.api.fields import ShareBounds
from semipd_core.api.service import ServiceStatus
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.policies.splits import FREE_STEP_PERCENT, legal_splits, nearest_split
from semipd_core.service_settings import fleet_settings, partition_settings
from semipd_core.telemetry import Wire
from semipd_kubectl.observe.objects import PIN_ANNOTATION, ServiceView
from semipd_kubectl.reports.status import LEAVING, PodReport, build_pods
from semipd_kubectl.reports.values import Split

PIN_REFUSED = "PinInvalid"  # reason of Degraded
_SPLIT = re.compile(r"([0-9]{1,3})/([0-9]{1,3})")


class PinnedPod(Wire, frozen=True, kw_only=True):
    """`granted`: by each of its engines; `done`: the agent follows the pin, and every engine has it."""

    name: str
    asked: Split | None
    granted: list[Split | None]
    done: bool


class PinReport(Wire, frozen=True, kw_only=True):
    """`pinned` None: the loop moves the split again. `previous`: the annotation before, as it was."""

    namespace: str
    name: str
    pinned: Split | None
    previous: str | None
    pods: list[PinnedPod]

    @property
    def waiting(self) -> list[PinnedPod]:
        return [pod for pod in self.pods if not pod.done]


def parse_split(text: str) -> Split:
    """`PREFILL/DECODE`. Raises: InvalidSpec."""
    found = _SPLIT.fullmatch(text)
    if found is None:
        raise InvalidSpec("PREFILL/DECODE", text, "two integers 1..100, as 70/60")
    prefill, decode = (int(part) for part in found.groups())
    for role, percent in (("prefill", prefill), ("decode", decode)):
        if not 1 <= percent <= 100:
            raise InvalidSpec(f"{role} percent of {text}", percent, "an integer 1..100")
    return Split(prefill_percent=prefill, decode_percent=decode)


def check_legal(split: Split, view: ServiceView) -> None:
    """Raises: InvalidSpec naming the bounds of the service, cut by its class, or the splits that its isolation can run."""
    isolation = _isolation(view)
    splits = legal_splits(isolation, _band(view.bounds))
    wanted = Partition(prefill_percent=split.prefill_percent, decode_percent=split.decode_percent)
    if wanted in splits:
        return
    if len(splits) > 1:
        _check_bounds(split, view)
    nearest = nearest_split(splits, wanted)
    allowed = (
        f"multiples of {FREE_STEP_PERCENT}"
        if isolation is Isolation.MPS
        else ", ".join(f"{each.prefill_percent}/{each.decode_percent}" for each in splits)
    )
    raise InvalidSpec(
        "PREFILL/DECODE",
        str(split),
        f"{allowed} (isolation {isolation}); the nearest is {nearest.prefill_percent}/{nearest.decode_percent}",
    )


def _isolation(view: ServiceView) -> Isolation:
    """By which the operator goes."""
    allowed = view.class_spec.allowed_isolations if view.class_spec is not None else tuple(Isolation)
    bounds = replace(view.service.spec.partition, bounds=view.bounds)
    statuses = [
        view.partitions[pod.name].status
        for pod in view.pods
        if pod.name in view.partitions and not pod.is_leaving
    ]
    in_force = {each.isolation.chosen for each in statuses if each is not None and each.isolation is not None}
    return fleet_settings(partition_settings(bounds, allowed), in_force).isolation


def _band(bounds: ShareBounds) -> Band:
    return Band(
        prefill_min_percent=bounds.prefill_min_percent,
        prefill_max_percent=bounds.prefill_max_percent,
        decode_min_percent=bounds.decode_min_percent,
        decode_max_percent=bounds.decode_max_percent,
    )


def _check_bounds(split: Split, view: ServiceView) -> None:
    bounds = view.bounds
    by_class = f", cut by class {view.cls.metadata.name}" if view.cls else ""
    for role, percent, low, high in (
        ("prefill", split.prefill_percent, bounds.prefill_min_percent, bounds.prefill_max_percent),
        ("decode", split.decode_percent, bounds.decode_min_percent, bounds.decode_max_percent),
    ):
        if not low <= percent <= high:
            limit = f"{low}..{high} (spec.partition.bounds of {view.namespace}/{view.name}{by_class})"
            raise InvalidSpec(f"{role} percent of {split}", percent, limit)


def pin_patch(split: Split | None) -> dict[str, object]:
    """A merge patch; None removes the pin."""
    return {"metadata": {"annotations": {PIN_ANNOTATION: None if split is None else str(split)}}}


def build_pin(view: ServiceView, split: Split | None, previous: str | None) -> PinReport:
    """Of the pods that serve."""
    pods = [pod for pod in build_pods(view) if pod.state != LEAVING]
    return PinReport(
        namespace=view.namespace,
        name=view.name,
        pinned=split,
        previous=previous,
        pods=[_pinned(pod, split) for pod in pods],
    )


def find_refusal(view: ServiceView) -> str | None:
    """What the operator says of a pin that it does not take."""
    status = view.service.status or ServiceStatus()
    degraded = find_condition(status.conditions, ConditionType.DEGRADED)
    if degraded is None or degraded.status is not ConditionStatus.TRUE or degraded.reason != PIN_REFUSED:
        return None
    return degraded.message


def _pinned(pod: PodReport, split: Split | None) -> PinnedPod:
    has_it = bool(pod.engines) and all(
        engine.granted == split and engine.switching is None for engine in pod.engines
    )
    return PinnedPod(
        name=pod.name,
        asked=pod.asked,
        granted=[engine.granted for engine in pod.engines],
        done=split is not None and pod.asked == split and pod.taken and has_it,
    )
