"""Which isolation the pods of a service have in force, by the word of their agents, and what the loop makes of it."""

from __future__ import annotations

from collections.abc import Mapping

from semipd_core.agent_config import PROBE_PASSED, PartitionSettings
from semipd_core.api.partition import PodIsolation
from semipd_core.partition import Isolation
from semipd_core.service_settings import fleet_settings
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.observed import Observed


def find_isolations(observed: Observed) -> Mapping[str, PodIsolation]:
    """By pod: of those that chose by themselves and are not leaving."""
    statuses = {
        pod.name: observed.partitions[pod.name].status
        for pod in observed.pods
        if not pod.is_leaving and pod.name in observed.partitions
    }
    return {
        name: status.isolation
        for name, status in statuses.items()
        if status is not None and status.isolation is not None
    }


def fleet_partition(effective: Effective, observed: Observed) -> PartitionSettings:
    """By which the loop goes."""
    found = find_isolations(observed).values()
    return fleet_settings(effective.partition, {each.chosen for each in found})


def without_shares(observed: Observed) -> frozenset[str]:
    """Pods that have nothing to split: they cannot try a split for the others."""
    found = find_isolations(observed)
    return frozenset(name for name, each in found.items() if each.chosen is Isolation.NONE)


def describe_fallen(observed: Observed) -> list[str]:
    """Pods that do not have what `Auto` prefers, with what they have, and why."""
    return [
        f"{name}: {each.chosen} ({each.reason})"
        for name, each in sorted(find_isolations(observed).items())
        if each.reason != PROBE_PASSED
    ]
