"""What a service promises, and the policy that keeps it: said in the service, and passed on to each pod's partition."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum

from semipd_core.api.fields import Milliseconds, Percentile
from semipd_core.api.wire import wire


class PolicyName(StrEnum):
    MODEL_PREDICTIVE = "ModelPredictive"
    SLO_FEEDBACK = "SLOFeedback"


@wire
class TtftTarget:
    percentile: Percentile = 90
    target_milliseconds: Milliseconds = 400


@wire
class TpotTarget:
    percentile: Percentile = 90
    target_milliseconds: Milliseconds = 60


@wire
class SloSpec:
    """Met while the attainment is at or above the lower of the two percentiles."""

    ttft: TtftTarget = field(default_factory=TtftTarget)
    tpot: TpotTarget = field(default_factory=TpotTarget)
