"""How far the Deployment may go by itself. While a template is on trial its pods never count as available, so it stops there.

A Deployment never removes available pods below `replicas - maxUnavailable`, and never has more than `replicas + maxSurge`. With
a `minReadySeconds` that does not end within a trial it comes to rest at `maxSurge + maxUnavailable` new pods, also while no
operator runs.
Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/deployment/rolling.go (reconcileOldReplicaSets).
"""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.api.service import RolloutSpec
from semipd_core.cluster.template_rollout import TemplateTrial
from semipd_operator.plan.observed import Observed, is_unschedulable

HELD_S = 10 * 365 * 86_400  # longer than any trial, also one that is paused


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    max_surge: int
    max_unavailable: int
    min_ready_seconds: int = 0


def plain_steps(spec: RolloutSpec) -> Steps:
    return Steps(max_surge=spec.max_surge, max_unavailable=spec.max_unavailable)


def trial_steps(trial: TemplateTrial, spec: RolloutSpec, observed: Observed) -> Steps:
    """As many new pods as the stage asks for, never fewer that serve than the spec allows.

    A surge where the spec allows it and there is room. What is more is replaced, one by one as new pods get ready.
    """
    replicas = observed.replicas
    size = trial.size(replicas, spec.canary_percent)
    digest = trial.template.digest
    ours = [pod for pod in observed.pods if pod.template == digest and not pod.is_leaving]
    others = sum(each.replicas for each in observed.revisions if each.template != digest)
    replaced = max(0, min(size, replicas - others))
    has_room = not any(map(is_unschedulable, ours)) or spec.max_unavailable == 0
    surge = min(spec.max_surge, size - replaced) if has_room else 0
    ready = sum(pod.is_ready for pod in ours)
    unavailable = min(size - surge, max(replaced, ready + spec.max_unavailable))
    return Steps(max_surge=surge, max_unavailable=unavailable, min_ready_seconds=HELD_S)
