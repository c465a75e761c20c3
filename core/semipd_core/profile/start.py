"""How a loop begins where a profile is given: with its step model and its share curves; traffic goes on from there.

Nothing else changes: the same model learns from the same samples, and old points fade. So the decision in the end is the one
without a profile, and it is there sooner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from semipd_core.agent_config import AgentConfig
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.semi_pd import SemiPdModel
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES, TURNS, ShareCurve
from semipd_core.profile.fit import fit_points
from semipd_core.profile.format import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the latency models know before the first request."""

    steps: StepModel
    curves: SemiPdModel


def start_on(config: AgentConfig) -> Start | None:
    """By its profile; else on a GPU by what is known of others; None on a CPU, where a share is a share of the time."""
    if config.profile is not None:
        return start_from(config.profile)
    return None if config.device == "CPU" else start_on_a_gpu()


def start_on_a_gpu() -> Start:
    """Without a profile: each phase by its assumed curve, until its steps at several shares say otherwise."""
    return Start(steps=StepModel.learning(ASSUMED_GPU_CURVES), curves=SemiPdModel())


def start_without_profile(*, curve: ShareCurve = TURNS, takes_turns: bool = True) -> Start:
    return Start(steps=StepModel(curve=curve, takes_turns=takes_turns), curves=SemiPdModel())


def start_from(profile: Profile) -> Start:
    """Of a profile that is about this device and model (`format.difference`)."""
    model, fits = fit_points(profile.points, takes_turns=profile.takes_turns)
    curves = SemiPdModel()
    if fits is not None:
        curves = SemiPdModel(
            eq1_ttft=(fits.prefill.eq1_scale, fits.prefill.eq1_offset),
            eq1_tpot=(fits.decode.eq1_scale, fits.decode.eq1_offset),
        )
    return Start(steps=replace(model, seen_ns={}), curves=curves)
