"""What a policy sees and what it answers. The reason is a condition's reason, a metric's label and an event's reason at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from semipd_core.latency.forecast import Forecaster, calibrate
from semipd_core.latency.load import EngineLoad
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.semi_pd import SemiPdModel
from semipd_core.partition import Partition
from semipd_core.slo.pooled import PooledWindow, WindowState
from semipd_core.telemetry import SloTargets


class Reason(StrEnum):
    """Why a decision is what it is."""

    # holds, by what the window says
    IDLE = "Idle"
    NO_DATA = "NoData"
    NOT_JUDGED_YET = "NotJudgedYet"
    SLO_MET = "SLOMet"
    WINDOW_TOO_SHORT = "WindowTooShort"
    TOO_FEW_SAMPLES = "TooFewSamples"
    WITHIN_HYSTERESIS = "WithinHysteresis"
    NO_BETTER_SPLIT = "NoBetterSplit"
    # moves
    TTFT_MISSED = "TTFTMissed"
    TPOT_MISSED = "TPOTMissed"
    BOTH_MISSED = "BothMissed"
    TTFT_PREDICTED_MISS = "TTFTPredictedMiss"
    TPOT_PREDICTED_MISS = "TPOTPredictedMiss"
    TTFT_NEAR_TARGET = "TTFTNearTarget"  # met so far, and the other target leaves room
    TPOT_NEAR_TARGET = "TPOTNearTarget"
    INFEASIBLE = "Infeasible"  # no split is predicted to meet both targets
    KV_PRESSURE = "KVPressure"
    # guards of the loops
    STATIC = "Static"
    ADVISORY = "Advisory"
    PINNED = "Pinned"
    COOLDOWN = "Cooldown"
    MOVES_SPENT = "MovesSpent"
    NOT_STEADY = "NotSteady"
    CLUSTER_WISH = "ClusterWish"
    NO_WISH = "NoWish"
    OUTSIDE_BAND = "OutsideBand"
    ADOPTED = "Adopted"  # engines run a split by somebody else's will
    PAUSED = "Paused"
    BOUNDS_CHANGED = "BoundsChanged"
    ISOLATION_CHANGED = "IsolationChanged"
    MODE_CHANGED = "ModeChanged"
    UNPINNED = "Unpinned"
    CANARY = "Canary"  # a split is on trial in some of the pods
    CANARY_PASSED = "CanaryPassed"
    CANARY_FAILED = "CanaryFailed"
    CANARY_EXPIRED = "CanaryExpired"  # nothing was learned within its time
    CANARY_REFUSED = "CanaryRefused"  # failed a while ago, or farther the same way
    TEMPLATE_ON_TRIAL = "TemplateOnTrial"  # no split moves while a new pod template is on trial
    ROLLOUT_STARTED = "RolloutStarted"  # of a new pod template, in one pod
    ROLLOUT_WIDENED = "RolloutWidened"
    ROLLOUT_PASSED = "RolloutPassed"
    ROLLOUT_FAILED = "RolloutFailed"
    ROLLOUT_EXPIRED = "RolloutExpired"  # not ready, or not proven, within its time
    ROLLOUT_REVERTED = "RolloutReverted"  # the spec asks for what ran before
    ROLLOUT_PLAIN = "RolloutPlain"  # a rolling update without a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    partition: Partition  # what to move to; equal to the current one means hold
    reason: Reason
    message: str  # one sentence with the numbers that decided


MIN_REQUESTS = 3  # fewer are no percentile
MISS_CHANCE_MAX = (
    0.1  # misses that a service which keeps its SLO shows more often than this are no reason to move
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInputs:
    """Observations only; a policy keeps no state of its own."""

    now_s: float  # unix time
    current: Partition
    splits: tuple[Partition, ...]  # the legal ones that may be chosen; never empty
    slo: SloTargets
    window: PooledWindow  # latencies and verdicts, at the current split alone
    demand: PooledWindow  # arrivals, over the window's full length
    window_state: WindowState
    load: EngineLoad = field(default_factory=EngineLoad)
    steps: StepModel = field(default_factory=StepModel)
    curves: SemiPdModel = field(default_factory=SemiPdModel)
    miss_chance_max: float = MISS_CHANCE_MAX

    @property
    def is_bad(self) -> bool:
        """Whether more requests miss than the SLO allows, and more than chance explains."""
        is_bad = self.window_state is WindowState.BAD
        return is_bad and self.window.chance_of_misses(self.slo) <= self.miss_chance_max + 1e-9

    def forecaster(self) -> Forecaster:
        return calibrate(
            model=self.steps,
            load=self.load,
            window=self.window,
            demand=self.demand,
            slo=self.slo,
            current=self.current,
        )

    def hold(self, reason: Reason, message: str) -> Decision:
        return Decision(partition=self.current, reason=reason, message=message)


class PartitionPolicy(Protocol):
    """Decides from `inputs` alone."""

    def decide(self, inputs: PolicyInputs) -> Decision: ...


def hold_without_verdict(inputs: PolicyInputs) -> Decision | None:
    """The last split holds where nothing is known, nothing happens, or too little; None if there is something to judge by."""
    requests = inputs.window.judged + inputs.window.open_requests
    match inputs.window_state:
        case WindowState.NO_DATA:
            return inputs.hold(Reason.NO_DATA, f"no fresh report of any engine: {inputs.current} holds")
        case WindowState.IDLE:
            return inputs.hold(Reason.IDLE, f"nothing arrived and nothing is open: {inputs.current} holds")
        case _ if requests < MIN_REQUESTS:
            return inputs.hold(
                Reason.TOO_FEW_SAMPLES,
                f"{requests} requests judged or open, {MIN_REQUESTS} are due: {inputs.current} holds",
            )
        case _:
            return None


def describe_window(inputs: PolicyInputs) -> str:
    """The window in words: percentiles against targets, and attainment."""
    slo, window = inputs.slo, inputs.window
    ttft = _against(window.ttft_percentile_ms(slo.ttft_percentile), slo.ttft_ms)
    tpot = _against(window.tpot_percentile_ms(slo.tpot_percentile), slo.tpot_ms)
    attainment = window.attainment_permille
    judged = (
        f"attainment {attainment / 10:.1f} % of {window.judged}"
        if attainment is not None
        else "none judged yet"
    )
    gap = f"open requests {inputs.load.token_gap_ms:.0f} ms per token"
    return f"TTFT p{slo.ttft_percentile} {ttft}, TPOT p{slo.tpot_percentile} {tpot}, {gap}, {judged}"


def _against(value_ms: float | None, target_ms: int) -> str:
    return f"{'unknown' if value_ms is None else round(value_ms)} of {target_ms} ms"
