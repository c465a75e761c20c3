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
    """`kept`: a template that runs already, word for word; None: what the service asks for.

    `replicas`: that the workload has, for a service that leaves them open; None: there is no workload.
    """

    digest: str
    steps: Steps
    replicas: int | None = None
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
    replicas = observed.workload.desired if observed.workload else None
    if rollout.trial is not None:
        steps = trial_steps(rollout.trial, spec, observed)
        return Target(digest=wanted.digest, steps=steps, replicas=replicas)
    if rollout.refusal is not None:
        assert kept is not None
        base = rollout.refusal.base
        return Target(digest=base, steps=plain_steps(spec), replicas=replicas, kept=kept)
    return Target(digest=wanted.digest, steps=plain_steps(spec), replicas=replicas)
