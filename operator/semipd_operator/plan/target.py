"""Which pod template the workload is to have, and in what steps it gets there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semipd_core.cluster.template_rollout import Template
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.rollout_steps import Steps, plain_steps, trial_steps
from semipd_operator.plan.template_trial import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`kept`: a template that runs already, word for word; None: what the service asks for."""

    digest: str
    steps: Steps
    kept: dict[str, Any] | None = None


def decide_target(
    rollout: Rollout,
    wanted: Template,
    effective: Effective,
    observed: Observed,
    kept: dict[str, Any] | None = None,
) -> Target:
    """`kept`: the template of `rollout.refusal.base`, where there is a refusal."""
    spec = effective.spec.rollout
    if rollout.trial is not None:
        return Target(digest=wanted.digest, steps=trial_steps(rollout.trial, spec, observed))
    if rollout.refusal is not None:
        assert kept is not None
        return Target(digest=rollout.refusal.base, steps=plain_steps(spec), kept=kept)
    return Target(digest=wanted.digest, steps=plain_steps(spec))
