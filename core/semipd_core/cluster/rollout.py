"""How a split on trial goes on: one pod, then a share of the pods, then all of them; back at once where they are worse off.

Each stage waits until its pods were granted the split, then for requests that were judged under it. The canaries fail if they
miss the SLO and miss it more often than the other pods did in the same time (than all pods did before, if there are no others),
both beyond chance. After the last stage all pods follow: with nothing beside them there is nothing to judge them by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from semipd_core.api.service import CanaryStage
from semipd_core.cluster.canary import Canary, Fleet, stage_size
from semipd_core.cluster.evidence import FAILS_BELOW, PASSES_ABOVE, Evidence, Fresh, fit_pods, look
from semipd_core.cluster.state import ClusterConfig
from semipd_core.cluster.verdicts import Verdicts
from semipd_core.partition import Wish
from semipd_core.policies.decision import MIN_REQUESTS, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`canary` None: the trial is over, by its `reason`. `changed`: other pods than before are asked for the split."""

    canary: Canary | None
    reason: Reason
    message: str
    changed: bool = False


def begin(fleet: Fleet, fresh: Fresh, wish: Wish, before: Verdicts, now_s: float) -> Canary | None:
    """In the first pod by name that is ready and reports; None if there is none."""
    pods = fit_pods(fleet, fresh)
    if not pods:
        return None
    return Canary(wish=wish, pods=tuple(pods[:1]), stage=CanaryStage.ONE_POD, stage_s=now_s, before=before)


def follow(canary: Canary, config: ClusterConfig, fleet: Fleet, fresh: Fresh, now_s: float) -> Trial:
    """One look at the canaries."""
    kept = _keep(canary, config, fleet, fresh)
    kept = _note_grants(kept, fleet, fresh, now_s)
    changed = kept.pods != canary.pods
    is_late = now_s - kept.stage_s >= config.canary_deadline_s
    if kept.granted_s is None:
        message = f"{_who(kept)}: {kept.wish.target} is not granted yet"
        if is_late:
            message = (
                f"{_who(kept)}: {kept.wish.target} was not granted within {config.canary_deadline_s:.0f} s"
            )
            return Trial(canary=None, reason=Reason.CANARY_EXPIRED, message=message, changed=True)
        return Trial(canary=kept, reason=Reason.CANARY, message=message, changed=changed)
    evidence = _look(kept, config, fleet, fresh, now_s)
    chance = evidence.chance(config)
    if chance <= FAILS_BELOW:
        return Trial(canary=None, reason=Reason.CANARY_FAILED, message=evidence.words, changed=True)
    is_enough = evidence.is_enough(config) or (is_late and evidence.canaries.judged >= MIN_REQUESTS)
    if is_enough and chance > PASSES_ABOVE:
        return _widen(kept, config, fleet, fresh, evidence, now_s)
    if is_late:
        message = f"{evidence.words}: no proof within {config.canary_deadline_s:.0f} s"
        return Trial(canary=None, reason=Reason.CANARY_EXPIRED, message=message, changed=True)
    return Trial(canary=kept, reason=Reason.CANARY, message=evidence.words, changed=changed)


def _look(canary: Canary, config: ClusterConfig, fleet: Fleet, fresh: Fresh, now_s: float) -> Evidence:
    assert canary.granted_s is not None
    return look(
        fleet,
        fresh,
        config,
        is_canary=lambda pod: pod.name in canary.pods,
        is_other=lambda pod: pod.name not in canary.pods,
        begun_s=canary.granted_s,
        before=canary.before,
        who=_who(canary),
        now_s=now_s,
    )


def _keep(canary: Canary, config: ClusterConfig, fleet: Fleet, fresh: Fresh) -> Canary:
    """The canaries that are still there, never more than the stage allows; if all are gone, the next pod takes over."""
    there = {pod.name for pod in fleet}
    size = _size(canary.stage, config, fleet)
    pods = [name for name in canary.pods if name in there][:size]
    if pods:
        return replace(canary, pods=tuple(pods))
    return replace(canary, pods=tuple(fit_pods(fleet, fresh)[:1]), granted_s=None)


def _note_grants(canary: Canary, fleet: Fleet, fresh: Fresh, now_s: float) -> Canary:
    """Of a large fleet some pod is always out of order: who does not report is not waited for."""
    if canary.granted_s is not None:
        return canary
    serving = set(fit_pods(fleet, fresh))
    waited = [pod for pod in fleet if pod.name in canary.pods and pod.name in serving]
    is_granted = all(pod.applied_id == canary.wish.decision_id for pod in waited)
    return replace(canary, granted_s=now_s) if waited and is_granted else canary


def _widen(
    canary: Canary, config: ClusterConfig, fleet: Fleet, fresh: Fresh, evidence: Evidence, now_s: float
) -> Trial:
    size = _size(CanaryStage.PERCENT, config, fleet)
    more = [name for name in fit_pods(fleet, fresh) if name not in canary.pods][: size - len(canary.pods)]
    if canary.stage is CanaryStage.PERCENT or size <= len(canary.pods) or size >= len(fleet) or not more:
        return Trial(canary=None, reason=Reason.CANARY_PASSED, message=evidence.words, changed=True)
    pods = tuple(sorted((*canary.pods, *more)))
    wider = replace(canary, pods=pods, stage=CanaryStage.PERCENT, stage_s=now_s, granted_s=None)
    message = f"{evidence.words}: {len(pods)} of {len(fleet)} pods follow"
    return Trial(canary=wider, reason=Reason.CANARY, message=message, changed=True)


def _size(stage: CanaryStage, config: ClusterConfig, fleet: Fleet) -> int:
    assert config.canary_percent is not None, "there is a canary"
    return stage_size(stage, len(fleet), config.canary_percent)


def _who(canary: Canary) -> str:
    if len(canary.pods) == 1:
        return canary.pods[0]
    return f"{len(canary.pods)} pods" if canary.pods else "no pod that could try it"
