"""Conditions of an object's status: recomputed each time, never edited by hand.

Source: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md (Conditions).
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from semipd_core.api.wire import Keyed, Matches, wire

CamelCase = Annotated[
    str, Matches(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", "a CamelCase word of at most 316 characters", 316)
]


class ConditionType(StrEnum):
    """What a service reports. An absent condition means that its feature is off."""

    READY = "Ready"  # the summary: every blocker appears in its reason
    ENGINES_READY = "EnginesReady"
    PARTITION_APPLIED = "PartitionApplied"
    METRICS_AVAILABLE = "MetricsAvailable"
    SLO_MET = "SLOMet"
    ROUTED = "Routed"
    ISOLATION_PREFERRED = (
        "IsolationPreferred"  # False where isolation Auto had to take another in some pod, else absent
    )
    SCALING_ACTIVE = "ScalingActive"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SWITCHING = "Switching"  # of one engine, in a SemiPDPartition


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@wire
class Condition:
    """`last_transition_time` (RFC 3339) moves only when `status` flips."""

    type: CamelCase
    status: ConditionStatus
    reason: CamelCase
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: str | None = None


Conditions = Annotated[tuple[Condition, ...], Keyed("type")]


def set_condition(conditions: tuple[Condition, ...], wanted: Condition, now: str) -> tuple[Condition, ...]:
    """`conditions` with `wanted` in the place of its type (or at the end), at `now` if its status is new.

    `now` is RFC 3339; the time that `wanted` carries does not matter.
    """
    old = find_condition(conditions, wanted.type)
    keeps_time = old is not None and old.status is wanted.status
    time = old.last_transition_time if old is not None and keeps_time else now
    new = replace(wanted, last_transition_time=time)
    if old is None:
        return (*conditions, new)
    return tuple(new if condition is old else condition for condition in conditions)


def find_condition(conditions: tuple[Condition, ...], type_: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type_), None)
