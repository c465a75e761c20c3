"""What is tried before all pods follow: the split on trial, the one that failed, and the shares that need no trial."""

from __future__ import annotations

from datetime import UTC, datetime

from semipd_core.api.service import CanaryStage, CanaryStatus
from semipd_core.cluster.state import REFUSED_FOR_S
from semipd_core.telemetry import Wire
from semipd_kubectl.observe.objects import ServiceView
from semipd_kubectl.reports.values import Split, unix_s


class CanaryReport(Wire, frozen=True, kw_only=True):
    """`since` and `refused_until` are RFC 3339; the latter None unless it was rolled back."""

    partition: Split
    decision_id: str
    stage: str  # OnePod | Percent | RolledBack
    since: str
    refused_until: str | None
    pods: list[str]  # that try it now
    of_pods: int  # that are not leaving
    canary_percent: int  # of the pods, in stage Percent
    judged_before: int
    attained_before: int


class RolloutReport(Wire, frozen=True, kw_only=True):
    """A pod template on trial, or the one that was rolled back last. `since` is RFC 3339."""

    image: str
    model: str
    stage: str  # OnePod | Percent | RolledBack
    since: str
    pods: list[str]  # the first by name that run it
    of_pods: int  # that are not leaving
    judged: int
    attained: int
    judged_before: int
    attained_before: int
    message: str  # why it was rolled back


def build_rollout(view: ServiceView) -> RolloutReport | None:
    status = view.service.status
    rollout = status.rollout if status is not None else None
    if rollout is None:
        return None
    return RolloutReport(
        image=rollout.image,
        model=rollout.model,
        stage=rollout.stage.value,
        since=rollout.since,
        pods=list(rollout.pods),
        of_pods=sum(not pod.is_leaving for pod in view.pods),
        judged=rollout.judged,
        attained=rollout.attained,
        judged_before=rollout.judged_before,
        attained_before=rollout.attained_before,
        message=rollout.message,
    )


def build_canary(view: ServiceView) -> CanaryReport | None:
    status = view.service.status
    canary = status.canary if status is not None else None
    if canary is None:
        return None
    return CanaryReport(
        partition=Split(
            prefill_percent=canary.partition.prefill_percent,
            decode_percent=canary.partition.decode_percent,
        ),
        decision_id=canary.decision_id,
        stage=canary.stage.value,
        since=canary.since,
        refused_until=_refused_until(canary),
        pods=sorted(view.canaries),
        of_pods=sum(not pod.is_leaving for pod in view.pods),
        canary_percent=view.service.spec.rollout.canary_percent,
        judged_before=canary.judged_before,
        attained_before=canary.attained_before,
    )


def _refused_until(canary: CanaryStatus) -> str | None:
    since_s = unix_s(canary.since)
    if canary.stage is not CanaryStage.ROLLED_BACK or since_s is None:
        return None
    return datetime.fromtimestamp(since_s + REFUSED_FOR_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
