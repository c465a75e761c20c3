"""What the cluster loop is told, what it remembers from round to round, and what a round says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from semipd_core.agent_config import AgentConfig, PartitionSettings
from semipd_core.cluster.canary import Canary, Refusal
from semipd_core.cluster.pressure import PressureTrack
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.semi_pd import SemiPdModel
from semipd_core.latency.share_curve import TURNS, ShareCurve
from semipd_core.partition import Band, Isolation, Partition, Wish
from semipd_core.policies.decision import Decision
from semipd_core.policies.splits import legal_splits, nearest_split
from semipd_core.profile.start import Start, start_on, start_without_profile
from semipd_core.slo.pooled import PooledWindow, WindowState
from semipd_core.telemetry import SloTargets

DECISIONS_KEPT = 10
HOUR_S = 3600.0
OWN_PREFIX = "cluster-"  # of the ids of this loop's decisions
REFUSED_FOR_S = 600.0  # is a split that was rolled back


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Of one service on one kind of device."""

    mode: str  # "Auto"; "Advisory" and "Static" send no wishes
    policy: str  # key of POLICIES
    isolation: Isolation
    initial: Partition
    bounds: Band
    slo: SloTargets
    cooldown_s: float = 30.0  # between moves of the band
    moves_per_hour: int = 60
    window_s: float = 20.0
    carry_over_s: float = 5.0  # after a move, while verdicts are still about the split before
    stale_after_s: float = 10.0  # an older report is no data
    settle_s: float = 10.0  # what a wish may take until reports show it
    average_s: float = 45.0  # of the pressure that replicas follow
    # Three steps of the coarser policy, as many as one decision of semi-PD's Algorithm 1 takes: as far as the fit at the target
    # can be believed, so that a node answers a burst at once and a wrong answer stays near what the cluster loop has judged.
    band_half_width_percent: int = 15
    curve: ShareCurve = TURNS
    takes_turns: bool = True
    start: Start | None = None  # what a profile says; None: nothing is known before the first steps
    pin: Partition | None = None  # by hand: nothing else is asked for, in any mode
    paused: bool = False  # nothing moves, no canary goes on
    subject: str = ""  # what is served, by what: proof holds for it alone
    canary_percent: int | None = None  # of the pods, in the second stage; None: all pods move at once
    canary_requests: int = 20  # judged, for a stage to pass …
    canary_window_s: float = 10.0  # … and at least so long
    canary_deadline_s: float = 600.0  # of a stage
    refused_for_s: float = REFUSED_FOR_S  # after a roll-back
    canary_start_s: float = (
        1800.0  # within which the pods of a template on trial are ready: a first start may fetch tens of GB
    )
    template_on_trial: bool = False  # then no split moves

    @classmethod
    def of(cls, config: AgentConfig) -> ClusterConfig:
        """For the engines that `config` describes."""
        return cls.of_settings(
            config.partition,
            config.slo,
            takes_turns=config.device == "CPU",
            start=start_on(config),
        )

    @classmethod
    def of_settings(
        cls,
        partition: PartitionSettings,
        slo: SloTargets,
        *,
        takes_turns: bool,
        start: Start | None = None,
    ) -> ClusterConfig:
        """With this class's times, which suit a loop that looks every second."""
        return cls(
            mode=partition.mode,
            policy=partition.policy,
            isolation=partition.isolation,
            initial=Partition(
                prefill_percent=partition.initial_prefill_percent,
                decode_percent=partition.initial_decode_percent,
            ),
            bounds=bounds_of(partition),
            slo=slo,
            cooldown_s=partition.cooldown_seconds,
            takes_turns=takes_turns,
            start=start,
        )

    @property
    def splits(self) -> tuple[Partition, ...]:
        """Raises: InvalidSpec if the bounds hold no legal split."""
        return legal_splits(self.isolation, self.bounds)


def bounds_of(partition: PartitionSettings) -> Band:
    return Band(
        prefill_min_percent=partition.prefill_min_percent,
        prefill_max_percent=partition.prefill_max_percent,
        decode_min_percent=partition.decode_min_percent,
        decode_max_percent=partition.decode_max_percent,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedDecision:
    at_s: float  # unix time at which it was first taken
    decision: Decision
    changed: bool  # whether engines were asked for something else by it
    decision_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Make the first one with `initial_state`. `target` and what follows it are asked of all pods but the canaries."""

    target: Partition
    band: Band
    decision_id: str
    reason: str
    message: str
    moves_s: tuple[float, ...] = ()  # of the last hour, unix time, oldest first
    settled_s: float = float(
        "-inf"
    )  # windows begin here at the earliest: the last move, or the last adoption
    wished: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # engine: decision id, when
    steps: StepModel = field(default_factory=StepModel)
    curves: SemiPdModel = field(default_factory=SemiPdModel)
    point_s: float = float("-inf")  # when the curves got their last point
    pressure: PressureTrack = field(default_factory=PressureTrack)
    decisions: tuple[TimedDecision, ...] = ()  # by `keep_moves`, newest first; repeated holds are one
    canary: Canary | None = None
    refusals: tuple[Refusal, ...] = ()  # that still hold, newest first
    proven: Band | None = None  # hull of the bands in which a judged window met the SLO

    @property
    def wish(self) -> Wish:
        """Of all pods but the canaries."""
        return Wish(
            target=self.target,
            band=self.band,
            decision_id=self.decision_id,
            reason=self.reason,
            message=self.message,
        )

    def wish_of(self, pod: str | None) -> Wish:
        canary = self.canary
        return canary.wish if canary is not None and pod in canary.pods else self.wish

    def is_refused(self, split: Partition, now_s: float) -> bool:
        return any(refusal.holds_back(split, now_s) for refusal in self.refusals)

    def asked(self, wish: Wish, now_s: float) -> ClusterState:
        """With `wish` asked of all pods, and windows that begin now."""
        return replace(
            self,
            target=wish.target,
            band=wish.band,
            decision_id=wish.decision_id,
            reason=wish.reason,
            message=wish.message,
            settled_s=now_s,
            canary=None,
        )

    def noted(self, timed: TimedDecision) -> ClusterState:
        return replace(self, decisions=keep_moves((timed, *self.decisions), timed.at_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRound:
    wishes: Mapping[str, Wish]  # by engine id; only engines that need one
    decision: Decision  # after the guards; its partition is the target in force, or the split on trial
    advice: Decision  # what the policy says, before the guards
    window: PooledWindow
    window_state: WindowState
    changed: bool  # whether any engine is asked for something else


class Identified(Protocol):
    @property
    def decision_id(self) -> str: ...


_T = TypeVar("_T", bound=Identified)


def keep_moves(decisions: Sequence[_T], now_s: float) -> tuple[_T, ...]:
    """DECISIONS_KEPT of `decisions`, newest first. Holds go before moves of the last hour: another operator counts those by them.

    A hold has the id of the move before it.
    """
    found = list(decisions)
    while len(found) > DECISIONS_KEPT:
        ids = [each.decision_id for each in found]
        spare = [index for index in range(1, len(found)) if not _is_recent_move(ids, index, now_s)]
        del found[spare[-1] if spare else -1]
    return tuple(found)


def _is_recent_move(ids: Sequence[str], index: int, now_s: float) -> bool:
    at_s = moved_at_s(ids[index])
    return at_s is not None and now_s - at_s < HOUR_S and ids[index] not in ids[index + 1 :]


def decision_id_at(now_s: float, word: str = "") -> str:
    """`word` marks what is no move of the policy."""
    return f"{OWN_PREFIX}{word}{round(now_s * 1000)}"


def moved_at_s(decision_id: str) -> float | None:
    """Unix time of the move of the policy that has this id; None for the id of anything else."""
    number = decision_id.removeprefix(OWN_PREFIX)
    is_own = decision_id.startswith(OWN_PREFIX) and number.isdecimal()
    return int(number) / 1000 if is_own else None


def band_around(target: Partition, config: ClusterConfig) -> Band:
    """`target` ± the half width, inside the service's bounds."""
    low, high = config.bounds, config.bounds
    half, centre = config.band_half_width_percent, config.bounds.clamp(target)
    return Band(
        prefill_min_percent=max(low.prefill_min_percent, centre.prefill_percent - half),
        prefill_max_percent=min(high.prefill_max_percent, centre.prefill_percent + half),
        decode_min_percent=max(low.decode_min_percent, centre.decode_percent - half),
        decode_max_percent=min(high.decode_max_percent, centre.decode_percent + half),
    )


def initial_state(config: ClusterConfig) -> ClusterState:
    """At the legal split nearest to the initial one.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    target = nearest_split(config.splits, config.initial)
    start = config.start or start_without_profile(curve=config.curve, takes_turns=config.takes_turns)
    return ClusterState(
        target=target,
        band=band_around(target, config),
        decision_id=f"{OWN_PREFIX}initial",
        reason="Initial",
        message=f"the service starts at {target}",
        steps=start.steps,
        curves=start.curves,
    )
