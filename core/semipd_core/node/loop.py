"""One turn of the node loop, every 1–2 s: the same policy as the cluster loop, on one engine's own windows, inside its band.

    state = initial_state(config)
    state, decision = step(state, config, report, wish, now_s)    # report: EngineReport or None; wish: the one in force, or None
    if decision.partition != the engine's requested split: start a switch

A wish that is new is obeyed at once. After that the node moves by itself, at most once per twice the duration of a switch, and
not at all while the engine is not Steady, the wish is pinned, or the mode is not Auto. No I/O and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from semipd_core.agent_config import AgentConfig
from semipd_core.errors import InvalidSpec
from semipd_core.latency.load import measure_load
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.semi_pd import SemiPdModel
from semipd_core.latency.share_curve import TURNS, ShareCurve
from semipd_core.node.observation import running_split
from semipd_core.partition import Band, Isolation, Partition, Wish
from semipd_core.policies import POLICIES
from semipd_core.policies.decision import Decision, PolicyInputs, Reason
from semipd_core.policies.splits import legal_splits
from semipd_core.profile.start import Start, start_on, start_without_profile
from semipd_core.repartition import Phase
from semipd_core.slo.pooled import classify, pool_reports
from semipd_core.telemetry import EngineReport, SloTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    mode: str  # "Auto"; else only wishes move the split
    policy: str  # key of POLICIES
    isolation: Isolation
    initial: Partition
    slo: SloTargets
    window_s: float = 10.0  # short: it is bursts that the node answers
    carry_over_s: float = 2.0  # after a switch, while verdicts are still about the split before
    stale_after_s: float = 5.0
    # Of many engines one always has bad luck; and what all of them miss is for the cluster loop to answer, which sees it sooner.
    miss_chance_max: float = 0.03
    dwell_switches: float = 2.0  # time between moves, in durations of a switch …
    min_dwell_s: float = 6.0  # … and at least three window slots, so that a move is judged before the next
    retry_s: float = 30.0  # before a wish that did not come true is tried again
    curve: ShareCurve = TURNS
    takes_turns: bool = True
    start: Start | None = None  # what a profile says

    @classmethod
    def of(cls, config: AgentConfig) -> NodeConfig:
        """For each of the engines that `config` describes."""
        partition = config.partition
        return cls(
            mode=partition.mode,
            policy=partition.policy,
            isolation=partition.isolation,
            initial=Partition(
                prefill_percent=partition.initial_prefill_percent,
                decode_percent=partition.initial_decode_percent,
            ),
            slo=config.slo,
            takes_turns=config.device == "CPU",
            start=start_on(config),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """Of one engine. Make the first one with `initial_state`."""

    split: Partition  # last seen running
    split_since_s: float = float("-inf")
    wish_id: str | None = None  # the wish obeyed last
    moved_to: Partition | None = None  # the move under way, until a report shows it
    moved_s: float = float("-inf")
    switch_s: float = 0.0  # measured duration of the last switch
    steps: StepModel = field(default_factory=StepModel)
    curves: SemiPdModel = field(default_factory=SemiPdModel)  # a node adds no points to them


def initial_state(config: NodeConfig) -> NodeState:
    start = config.start or start_without_profile(curve=config.curve, takes_turns=config.takes_turns)
    return NodeState(split=config.initial, steps=start.steps, curves=start.curves)


def step_band(config: NodeConfig, wish: Wish) -> Band | None:
    """The band inside which each step may have a split of its own; None: the wish's target alone.

    Only where a change of split is free (GreenContext) and the node may move at all.
    """
    is_free = config.mode == "Auto" and config.policy != "Static" and not wish.pinned
    if config.isolation is not Isolation.GREEN_CONTEXT or not is_free:
        return None
    return None if wish.band == Band.only(wish.target) else wish.band


def step(
    state: NodeState,
    config: NodeConfig,
    report: EngineReport | None,
    wish: Wish | None,
    now_s: float,
    *,
    switch_s: float | None = None,
) -> tuple[NodeState, Decision]:
    """Decide for one engine. `switch_s`: the measured duration of its last switch, where the caller knows it better."""
    if report is None:
        return state, _hold(state.split, Reason.NO_DATA, "the engine does not report")
    state = _observe(state, report, now_s, switch_s)
    decision = _follow_wish(state, config, report, wish, now_s)
    if decision is None:
        decision = _hold_back(state, config, now_s)
    if decision is None and wish is not None:
        decision = _decide(state, config, report, wish, now_s)
    assert decision is not None, "a missing wish holds"
    return _remember(state, decision, wish, now_s), decision


def _observe(state: NodeState, report: EngineReport, now_s: float, switch_s: float | None) -> NodeState:
    """Learn from the engine's steps; notice that its split changed, and how long that took."""
    if report.coordinator is not None:
        steps = state.steps.observe(report.engine_id, report.coordinator.samples)
        state = replace(state, steps=steps)
    split = running_split(report)
    if split != state.split:
        state = replace(state, split=split, split_since_s=now_s)
    if report.phase == Phase.STEADY and state.moved_to is not None and split == state.moved_to:
        state = replace(state, moved_to=None, switch_s=now_s - state.moved_s)
    return state if switch_s is None else replace(state, switch_s=switch_s)


def _follow_wish(
    state: NodeState, config: NodeConfig, report: EngineReport, wish: Wish | None, now_s: float
) -> Decision | None:
    """A wish that is new, pinned or left; None where the wish leaves the node free."""
    if report.phase != Phase.STEADY:
        return _hold(state.split, Reason.NOT_STEADY, f"the engine is {report.phase}: {state.split} holds")
    if wish is None:
        return _hold(state.split, Reason.NO_WISH, f"no wish yet: {state.split} holds")
    may_retry = state.wish_id != wish.decision_id or now_s - state.moved_s >= config.retry_s
    if wish.pinned:
        target = wish.target if may_retry or state.split == wish.target else state.split
        return Decision(
            partition=target, reason=Reason.PINNED, message=f"pinned to {wish.target}: {wish.message}"
        )
    if state.wish_id != wish.decision_id:
        return Decision(
            partition=wish.target, reason=Reason.CLUSTER_WISH, message=f"{wish.reason}: {wish.message}"
        )
    if not wish.band.holds(state.split) and state.split != wish.target:
        target = wish.target if may_retry else state.split
        return Decision(
            partition=target,
            reason=Reason.OUTSIDE_BAND,
            message=f"{state.split} is outside the band around {wish.target}, tried every {config.retry_s:.0f} s",
        )
    return None


def _hold_back(state: NodeState, config: NodeConfig, now_s: float) -> Decision | None:
    if config.mode != "Auto":
        return _hold(state.split, Reason.STATIC, f"mode {config.mode}: {state.split} holds")
    dwell_s = max(config.dwell_switches * state.switch_s, config.min_dwell_s)
    left_s = max(state.moved_s, state.split_since_s) + dwell_s - now_s
    if left_s > 0:
        return _hold(
            state.split,
            Reason.COOLDOWN,
            f"the last move was {dwell_s - left_s:.1f} s ago, {dwell_s:.1f} s are due",
        )
    return None


def _decide(state: NodeState, config: NodeConfig, report: EngineReport, wish: Wish, now_s: float) -> Decision:
    demand, window = (
        pool_reports([report], since_s=since_s, now_s=now_s, stale_after_s=config.stale_after_s)
        for since_s in (
            now_s - config.window_s,
            max(now_s - config.window_s, state.split_since_s + config.carry_over_s),
        )
    )
    coordinators = [] if report.coordinator is None else [report.coordinator]
    inputs = PolicyInputs(
        now_s=now_s,
        current=state.split,
        splits=_splits(config, wish),
        slo=config.slo,
        window=window,
        demand=demand,
        window_state=classify(window, config.slo),
        load=measure_load(coordinators, state.steps),
        steps=state.steps,
        curves=state.curves,
        miss_chance_max=config.miss_chance_max,
    )
    return POLICIES[config.policy].decide(inputs)


def _splits(config: NodeConfig, wish: Wish) -> tuple[Partition, ...]:
    """The legal splits of the band; the target alone where a wish by hand names a band that holds none."""
    try:
        return legal_splits(config.isolation, wish.band)
    except InvalidSpec:
        return (wish.target,)


def _remember(state: NodeState, decision: Decision, wish: Wish | None, now_s: float) -> NodeState:
    if decision.reason in (Reason.CLUSTER_WISH, Reason.PINNED) and wish is not None:
        state = replace(state, wish_id=wish.decision_id)
    if decision.partition != state.split:
        state = replace(state, moved_to=decision.partition, moved_s=now_s)
    return state


def _hold(split: Partition, reason: Reason, message: str) -> Decision:
    return Decision(partition=split, reason=reason, message=message)
