"""What the status says of a split on trial and of what is proven: enough for another operator to go on from."""

from __future__ import annotations

from semipd_core.api.fields import PartitionSplit
from semipd_core.api.partition import BandSpec
from semipd_core.api.service import MAX_CANARY_PODS, CanaryStage, CanaryStatus, RolloutStatus
from semipd_core.cluster.state import ClusterState
from semipd_core.cluster.template_rollout import Template, TemplateTrial
from semipd_core.cluster.verdicts import Verdicts
from semipd_core.partition import Partition
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.template_trial import NO_ROLLOUT, Rollout, TemplateRefusal
from semipd_operator.plan.times import to_rfc3339, to_unix_s

MAX_MESSAGE = 1024


def canary_status(state: ClusterState) -> CanaryStatus | None:
    canary = state.canary
    if canary is not None:
        return CanaryStatus(
            partition=_split(canary.wish.target),
            decision_id=canary.wish.decision_id,
            stage=canary.stage,
            since=to_rfc3339(canary.stage_s),
            pods=canary.pods[:MAX_CANARY_PODS],
            judged_before=canary.before.judged,
            attained_before=canary.before.attained,
        )
    if state.refusals:
        refusal = state.refusals[0]
        return CanaryStatus(
            partition=_split(refusal.split),
            decision_id=refusal.decision_id,
            stage=CanaryStage.ROLLED_BACK,
            since=to_rfc3339(refusal.at_s),
        )
    return None


def rollout_status(rollout: Rollout) -> RolloutStatus | None:
    trial, refusal = rollout.trial, rollout.refusal
    if trial is not None:
        return RolloutStatus(
            template=trial.template.digest,
            base=trial.base,
            image=trial.template.image,
            model=trial.template.model,
            stage=trial.stage,
            since=to_rfc3339(trial.stage_s),
            pods=trial.pods[:MAX_CANARY_PODS],
            judged=trial.judged.judged,
            attained=trial.judged.attained,
            judged_before=trial.before.judged,
            attained_before=trial.before.attained,
        )
    if refusal is not None:
        return RolloutStatus(
            template=refusal.template.digest,
            base=refusal.base,
            image=refusal.template.image,
            model=refusal.template.model,
            stage=CanaryStage.ROLLED_BACK,
            since=to_rfc3339(refusal.at_s),
            message=refusal.message[:MAX_MESSAGE],
        )
    return None


def recorded_rollout(observed: Observed) -> Rollout:
    """What another operator was about to do with a new template."""
    status = observed.service.status.rollout if observed.service.status is not None else None
    if status is None:
        return NO_ROLLOUT
    template = Template(digest=status.template, image=status.image, model=status.model)
    at_s = to_unix_s(status.since)
    if status.stage is CanaryStage.ROLLED_BACK:
        refusal = TemplateRefusal(template=template, base=status.base, at_s=at_s, message=status.message)
        return Rollout(refusal=refusal)
    before = Verdicts(
        attained=status.attained_before, missed=max(0, status.judged_before - status.attained_before)
    )
    trial = TemplateTrial(
        template=template,
        base=status.base,
        stage=status.stage,
        stage_s=at_s,
        pods=status.pods,
        before=before,
    )
    return Rollout(trial=trial)


def proven_status(state: ClusterState) -> BandSpec | None:
    band = state.proven
    if band is None:
        return None
    return BandSpec(
        prefill_min_percent=band.prefill_min_percent,
        prefill_max_percent=band.prefill_max_percent,
        decode_min_percent=band.decode_min_percent,
        decode_max_percent=band.decode_max_percent,
    )


def _split(partition: Partition) -> PartitionSplit:
    return PartitionSplit(prefill_percent=partition.prefill_percent, decode_percent=partition.decode_percent)
