"""How a new pod template goes on: one pod, then a share of the pods, then all of them; back where those are worse off.

As a split on trial (`rollout`), with "runs the template and is ready" in place of the granted split. Unlike a split, a template
was asked for by a person: where there is no traffic to judge it by, it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from semipd_core.api.service import CanaryStage
from semipd_core.cluster.canary import Fleet, Member, stage_size
from semipd_core.cluster.evidence import FAILS_BELOW, PASSES_ABOVE, Evidence, Fresh, look
from semipd_core.cluster.state import ClusterConfig
from semipd_core.cluster.verdicts import NOTHING_JUDGED, Verdicts
from semipd_core.policies.decision import MIN_REQUESTS, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A pod template by its digest, and what people know it by."""

    digest: str
    image: str = ""
    model: str = ""

    def __str__(self) -> str:
        return f"{self.model} by {self.image} ({self.digest})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTrial:
    """Times are unix seconds."""

    template: Template
    base: str  # digest of what the other pods run
    stage: CanaryStage  # OnePod or Percent
    stage_s: float  # since when
    ready_s: float | None = None  # when as many pods as the stage asks for were first seen to be ready
    pods: tuple[str, ...] = ()  # that run it, by name
    before: Verdicts = NOTHING_JUDGED  # of the window before the trial
    judged: Verdicts = NOTHING_JUDGED  # of `pods`, at the last look

    def size(self, replicas: int, percent: int) -> int:
        return stage_size(self.stage, replicas, percent)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLook:
    """`trial` None: it is over, and by its `reason` all pods follow (PASSED, PLAIN) or none (FAILED, EXPIRED)."""

    trial: TemplateTrial | None
    reason: Reason
    message: str


def begin_template(template: Template, base: str, before: Verdicts, now_s: float) -> TemplateTrial:
    return TemplateTrial(
        template=template, base=base, stage=CanaryStage.ONE_POD, stage_s=now_s, before=before
    )


def follow_template(
    trial: TemplateTrial, config: ClusterConfig, fleet: Fleet, fresh: Fresh, replicas: int, now_s: float
) -> TemplateLook:
    """One look at the pods that run the template on trial. `replicas`: as the service asks for."""
    ours = [pod for pod in fleet if pod.template == trial.template.digest]
    size = trial.size(replicas, _percent(config))
    is_ready = sum(pod.is_ready for pod in ours) >= size
    ready_s = trial.ready_s if trial.ready_s is not None else now_s if is_ready else None
    trial = replace(trial, pods=tuple(sorted(pod.name for pod in ours)), ready_s=ready_s)
    if ready_s is None:
        return _wait(trial, config, fleet, size, now_s)
    evidence = _look(trial, config, fleet, fresh, now_s)
    trial = replace(trial, judged=evidence.canaries)
    chance = evidence.chance(config)
    if chance <= FAILS_BELOW:
        return TemplateLook(trial=None, reason=Reason.ROLLOUT_FAILED, message=evidence.words)
    is_late = now_s - ready_s >= config.canary_deadline_s
    is_enough = evidence.is_enough(config) or (is_late and evidence.canaries.judged >= MIN_REQUESTS)
    if is_ready and is_enough and chance > PASSES_ABOVE:
        return _widen(trial, config, replicas, evidence.words, now_s)
    if not is_late:
        return TemplateLook(trial=trial, reason=Reason.CANARY, message=evidence.words)
    if is_ready and _lacks_traffic(trial, evidence, config, fleet):
        return _widen(trial, config, replicas, f"{evidence.words}: no traffic to judge by", now_s)
    why = "no proof" if is_ready else "no longer ready, and no proof"
    message = f"{evidence.words}: {why} within {config.canary_deadline_s:.0f} s"
    return TemplateLook(trial=None, reason=Reason.ROLLOUT_EXPIRED, message=message)


def _wait(trial: TemplateTrial, config: ClusterConfig, fleet: Fleet, size: int, now_s: float) -> TemplateLook:
    """Until the stage's pods are ready. Where nothing serves that could be gone back to, the template goes on."""
    ready = sum(pod.is_ready and pod.template == trial.template.digest for pod in fleet)
    said = f"{ready} of {size} pods of the new template are ready"
    if now_s - trial.stage_s < config.canary_start_s:
        return TemplateLook(trial=trial, reason=Reason.CANARY, message=said)
    serving = sum(pod.is_ready and _is_base(trial, pod) for pod in fleet)
    message = f"{said} after {config.canary_start_s:.0f} s, {serving} of the one before"
    reason = Reason.ROLLOUT_EXPIRED if serving else Reason.ROLLOUT_PLAIN
    return TemplateLook(trial=None, reason=reason, message=message)


def _look(trial: TemplateTrial, config: ClusterConfig, fleet: Fleet, fresh: Fresh, now_s: float) -> Evidence:
    assert trial.ready_s is not None
    return look(
        fleet,
        fresh,
        config,
        is_canary=lambda pod: pod.template == trial.template.digest,
        is_other=lambda pod: _is_base(trial, pod),
        begun_s=trial.ready_s,
        before=trial.before,
        who=trial.pods[0] if len(trial.pods) == 1 else f"{len(trial.pods)} pods",
        now_s=now_s,
    )


def _lacks_traffic(trial: TemplateTrial, evidence: Evidence, config: ClusterConfig, fleet: Fleet) -> bool:
    """Whether so few requests are no fault of the new pods: as many as the others had would not have been enough either."""
    others = sum(_is_base(trial, pod) for pod in fleet)
    share = evidence.others.judged * len(trial.pods) / others if others else 0.0
    return evidence.canaries.judged < MIN_REQUESTS and share < config.canary_requests


def _widen(
    trial: TemplateTrial, config: ClusterConfig, replicas: int, words: str, now_s: float
) -> TemplateLook:
    size = stage_size(CanaryStage.PERCENT, replicas, _percent(config))
    if trial.stage is CanaryStage.PERCENT or size <= len(trial.pods) or size >= replicas:
        return TemplateLook(trial=None, reason=Reason.ROLLOUT_PASSED, message=words)
    wider = replace(trial, stage=CanaryStage.PERCENT, stage_s=now_s, ready_s=None, judged=NOTHING_JUDGED)
    message = f"{words}: {size} of {replicas} pods follow"
    return TemplateLook(trial=wider, reason=Reason.ROLLOUT_WIDENED, message=message)


def _is_base(trial: TemplateTrial, pod: Member) -> bool:
    return pod.template == trial.base


def _percent(config: ClusterConfig) -> int:
    return 100 if config.canary_percent is None else config.canary_percent
