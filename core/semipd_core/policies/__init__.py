"""Which split to run: policies as pure functions from observed inputs to a decision with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from semipd_core.policies.decision import PartitionPolicy
from semipd_core.policies.model_predictive import ModelPredictive
from semipd_core.policies.slo_feedback import SloFeedback
from semipd_core.policies.static import Static

POLICIES: Mapping[str, PartitionPolicy] = MappingProxyType(
    {"Static": Static(), "SLOFeedback": SloFeedback(), "ModelPredictive": ModelPredictive()}
)
