"""Which conditions of a service block it, and which are a reason to look?"""

from __future__ import annotations

from collections.abc import Iterable

from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType
from semipd_core.telemetry import Wire

BAD_WHEN_TRUE = frozenset({ConditionType.DEGRADED.value})
# A rollout under way is no fault; these are.
STUCK = frozenset({"CannotSurge", "ProgressDeadlineExceeded"})
WITHOUT_POLARITY = frozenset({ConditionType.PROGRESSING.value, ConditionType.SCALING_ACTIVE.value})
FOLLOWS_THE_OTHERS = ConditionType.READY.value


class ConditionReport(Wire, frozen=True, kw_only=True):
    """`since` is RFC 3339."""

    type: str
    status: str
    reason: str
    message: str
    since: str | None

    def __str__(self) -> str:
        said = f" {self.message}" if self.message else ""
        return f"{self.type}={self.status} ({self.reason}){said}"


def report_of(condition: Condition) -> ConditionReport:
    return ConditionReport(
        type=condition.type,
        status=condition.status.value,
        reason=condition.reason,
        message=condition.message,
        since=condition.last_transition_time,
    )


def find_blocking(conditions: Iterable[Condition]) -> list[Condition]:
    """Those that say that something is wrong. `Ready` only where no other does: it repeats the heaviest of them."""
    found = [condition for condition in conditions if _is_bad(condition)]
    others = [condition for condition in found if condition.type != FOLLOWS_THE_OTHERS]
    return others or found


def _is_bad(condition: Condition) -> bool:
    if condition.type in WITHOUT_POLARITY:
        return condition.reason in STUCK
    if condition.type in BAD_WHEN_TRUE:
        return condition.status is ConditionStatus.TRUE
    known = condition.type in {kind.value for kind in ConditionType}
    return known and condition.status is ConditionStatus.FALSE
