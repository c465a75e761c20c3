"""Is a new pod template to be tried first? Begins and ends trials as the spec changes; their stages are `template_rollout`'s."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from semipd_core.api.service import Placement
from semipd_core.cluster.template_rollout import Template, TemplateLook, TemplateTrial, begin_template
from semipd_core.cluster.verdicts import Verdicts
from semipd_core.policies.decision import Reason
from semipd_operator.plan.naming import SKIP_ANNOTATION
from semipd_operator.plan.observed import Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRefusal:
    """A template that did worse than `base` (digest), which all pods run again. Held until another template is asked for."""

    template: Template
    base: str
    at_s: float  # unix time
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """At most one of `trial` and `refusal`; neither: the Deployment has what the service asks for, or is on its way."""

    trial: TemplateTrial | None = None
    refusal: TemplateRefusal | None = None
    told: str | None = None  # digest that was last said to be rolled out without a trial

    @property
    def held(self) -> TemplateTrial | TemplateRefusal | None:
        return self.trial or self.refusal

    def begun_anew(self, now_s: float) -> Rollout:
        """After a pause: the stage's time begins again."""
        if self.trial is None:
            return self
        return replace(self, trial=replace(self.trial, stage_s=now_s, ready_s=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """For the service's decisions."""

    reason: Reason
    message: str


NO_ROLLOUT = Rollout()


def fit_rollout(
    rollout: Rollout, wanted: Template, observed: Observed, before: Verdicts, now_s: float
) -> tuple[Rollout, Note | None]:
    """What becomes of a trial, or whether one begins, now that the service asks for `wanted`. `before`: of the last window."""
    if observed.is_paused:
        return rollout, None
    held = rollout.held
    if held is None and not _is_change(wanted, observed):
        return NO_ROLLOUT, None
    if held is not None and held.template.digest == wanted.digest:
        why = _end(rollout, observed)
        return (rollout, None) if why is None else _plainly(rollout, wanted, why)
    base = held.base if held is not None else _most_ready(observed)
    if base == wanted.digest:
        back = f"the spec asks for what ran before {rollout.trial.template}" if rollout.trial else ""
        return NO_ROLLOUT, Note(reason=Reason.ROLLOUT_REVERTED, message=back) if back else None
    why = _no_trial(base, observed)
    if why is not None or base is None:
        return _plainly(rollout, wanted, why or "")
    trial = begin_template(wanted, base, before, now_s)
    message = f"{wanted} is tried in 1 of {observed.replicas} pods"
    return Rollout(trial=trial), Note(reason=Reason.ROLLOUT_STARTED, message=message)


def conclude(look: TemplateLook, trial: TemplateTrial, now_s: float) -> tuple[Rollout, Note | None]:
    """After a look at the pods that try `trial`."""
    if look.trial is not None:
        widened = look.reason is Reason.ROLLOUT_WIDENED
        note = Note(reason=look.reason, message=f"{trial.template}: {look.message}") if widened else None
        return Rollout(trial=look.trial), note
    if look.reason in (Reason.ROLLOUT_FAILED, Reason.ROLLOUT_EXPIRED):
        message = f"{trial.template} is rolled back to {trial.base}: {look.message}"
        refusal = TemplateRefusal(template=trial.template, base=trial.base, at_s=now_s, message=message)
        return Rollout(refusal=refusal), Note(reason=look.reason, message=message)
    message = f"all pods follow to {trial.template}: {look.message}"
    return Rollout(told=trial.template.digest), Note(reason=look.reason, message=message)


def _is_change(wanted: Template, observed: Observed) -> bool:
    """A workload of a release that noted no digest is taken as it is."""
    deployed = observed.workload.template if observed.workload is not None else None
    return deployed not in (None, wanted.digest)


def _end(rollout: Rollout, observed: Observed) -> str | None:
    """Why what is held is let go, though the service asks for it still; None: it is not."""
    held = rollout.held
    assert held is not None
    if observed.skips_canary:
        return f"{SKIP_ANNOTATION} is true"
    if not any(each.template == held.base for each in observed.revisions):
        return f"the revision before, {held.base}, is gone"
    if rollout.trial is not None and observed.replicas == 0:
        return "0 replicas are asked for"
    return None


def _no_trial(base: str | None, observed: Observed) -> str | None:
    if observed.service.spec.placement is Placement.EVERY_NODE:
        return "placement EveryNode: a DaemonSet has no stages"
    if observed.skips_canary:
        return f"{SKIP_ANNOTATION} is true"
    if observed.replicas < 2:
        return f"{observed.replicas} replicas: there would be no other pod to judge by"
    if not any(each.template == base for each in observed.revisions):
        return "no ready pod runs a revision that could be gone back to"
    return None


def _most_ready(observed: Observed) -> str | None:
    """The template of most pods that serve; None: of none it is known."""
    counts = Counter(
        pod.template for pod in observed.pods if pod.is_ready and not pod.is_leaving and pod.template
    )
    deployed = observed.workload.template if observed.workload is not None else None
    return min(counts, key=lambda digest: (-counts[digest], digest != deployed, digest), default=None)


def _plainly(rollout: Rollout, wanted: Template, why: str) -> tuple[Rollout, Note | None]:
    note = Note(reason=Reason.ROLLOUT_PLAIN, message=f"{wanted} by a plain rolling update: {why}")
    return Rollout(told=wanted.digest), None if rollout.told == wanted.digest else note
