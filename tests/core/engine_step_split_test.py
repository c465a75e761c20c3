"""The coordinator chooses a split for the steps that it plans, inside the band of the wish."""

from __future__ import annotations

import pytest
from engine_simulation import NS_PER_MS, Simulation, build_config

from semipd_core.engine.coordinator import SetSplit
from semipd_core.engine.split_choice import SplitSettings
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES
from semipd_core.messages import LaneHello, StepPlan
from semipd_core.partition import Band, Partition, Role
from semipd_core.sm_splits import SmSplit, legal_splits
from semipd_core.step_split import StepReason
from semipd_core.telemetry import SloTargets

WIDE = Band(prefill_min_percent=10, prefill_max_percent=80, decode_min_percent=20, decode_max_percent=90)
SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
SETTINGS = SplitSettings.of(SLO)


class GreenSimulation(Simulation):
    """Keeps the splits that the coordinator sets, and passes the rest on."""

    def __init__(self, splits: tuple[SmSplit, ...] = (), **overrides) -> None:
        super().__init__(
            build_config(**{"step_split": SETTINGS, "num_blocks": 400, "num_slots": 64, **overrides})
        )
        self.splits = splits
        self.choices = []
        handle = self.coordinator.handle

        def without_splits(event, now_ns):
            effects = handle(event, now_ns)
            self.choices += [effect.choice for effect in effects if isinstance(effect, SetSplit)]
            kinds = [type(getattr(effect, "message", effect)) for effect in effects]
            if SetSplit in kinds:
                assert kinds.index(SetSplit) < kinds.index(StepPlan), "plans count on it"
            return [effect for effect in effects if not isinstance(effect, SetSplit)]

        self.coordinator.handle = without_splits

    def send(self, event) -> None:
        if isinstance(event, LaneHello):
            event = LaneHello(
                lane_id=event.lane_id,
                role=event.role,
                pid=event.pid,
                requested_percent=event.requested_percent,
                granted_percent=event.granted_percent,
                splits=self.splits,
            )
        super().send(event)

    def wish(self, prefill: int, band: Band | None) -> Partition:
        return self.coordinator.set_caps(prefill, 100 - prefill, band)

    def granted(self) -> list[tuple[int, int]]:
        lanes = self.coordinator.report(self.now_ns).lanes
        return [(lane.requested_percent, lane.granted_percent) for lane in lanes]

    def samples(self, role: Role):
        return [sample for sample in self.coordinator.report(self.now_ns).samples if sample.role is role]


def run_both(simulation: GreenSimulation, steps: int, prefill_ms: int, decode_ms: int) -> None:
    """Prompts keep coming while others decode: both lanes always have a step in flight. Alone it would take half the time."""
    for number in range(steps):
        simulation.submit(f"p{number}", [number % 7 + 1] * 12, max_tokens=8)
        for role, wall_ms in ((Role.PREFILL, prefill_ms), (Role.DECODE, decode_ms)):
            lane = simulation.lanes[simulation.active[role]]
            if lane.plans:
                simulation.step(lane.lane_id, wall_ns=wall_ms * NS_PER_MS)


def started(**overrides) -> GreenSimulation:
    simulation = GreenSimulation(**overrides)
    simulation.wish(60, overrides.pop("band", None))
    simulation.start_all_lanes()
    return simulation


def test_without_a_band_the_wish_alone_holds():
    simulation = started()
    run_both(simulation, 20, prefill_ms=30, decode_ms=20)
    assert simulation.choices == []
    assert simulation.granted() == [(60, 60), (40, 40)]
    assert {(each.prefill_percent, each.decode_percent) for each in simulation.samples(Role.DECODE)} == {
        (60, 40)
    }


def test_a_lone_prompt_has_the_largest_share_that_the_band_allows():
    simulation = started()
    simulation.wish(60, WIDE)
    simulation.submit("a", [1, 2, 3], max_tokens=4)
    (choice,) = simulation.choices
    assert (choice.split, choice.reason) == (
        Partition(prefill_percent=80, decode_percent=20),
        StepReason.PREFILL_ALONE,
    )
    simulation.step(simulation.active[Role.PREFILL])
    assert simulation.choices[-1].reason is StepReason.DECODE_ALONE
    assert simulation.choices[-1].split.decode_percent == 90


def test_until_the_steps_are_known_the_target_holds_while_both_work():
    simulation = started()
    simulation.wish(60, WIDE)
    run_both(simulation, 4, prefill_ms=30, decode_ms=20)
    together = [each for each in simulation.choices if "Alone" not in each.reason]
    assert together
    assert {each.reason for each in together} == {StepReason.NOT_MODELLED}
    assert {each.split.prefill_percent for each in together} == {60}


@pytest.mark.parametrize(
    ("decode_ms", "prefill_percent"),
    [
        pytest.param(20, 80, id="decode has room: prefill gets it"),
        pytest.param(50, 50, id="decode needs about half"),
        pytest.param(140, 10, id="decode misses its target at any: it gets the most"),
    ],
)
def test_learned_steps_move_the_split_to_what_the_targets_leave(decode_ms, prefill_percent):
    simulation = started()
    simulation.wish(40, WIDE)
    run_both(simulation, 40, prefill_ms=30, decode_ms=decode_ms)
    sample = simulation.samples(Role.PREFILL)[-1]
    assert (sample.prefill_percent, sample.decode_percent) == (prefill_percent, 100 - prefill_percent)
    assert simulation.granted() == [(40, 40), (60, 60)], "the wish is what is granted; steps move about it"


def test_the_band_binds_every_choice():
    simulation = started()
    band = Band(prefill_min_percent=30, prefill_max_percent=50, decode_min_percent=20, decode_max_percent=90)
    simulation.wish(40, band)
    run_both(simulation, 40, prefill_ms=30, decode_ms=10)
    assert {choice.split.prefill_percent for choice in simulation.choices} <= {30, 40, 50}


def test_a_narrower_wish_takes_effect_at_once():
    simulation = started()
    simulation.wish(60, WIDE)
    simulation.submit("a", [1, 2, 3], max_tokens=4)
    assert simulation.wish(30, None) == Partition(prefill_percent=30, decode_percent=70)


def test_steps_are_counted_by_the_split_that_was_chosen_for_them():
    simulation = started()
    simulation.wish(40, WIDE)
    run_both(simulation, 40, prefill_ms=30, decode_ms=50)
    report = simulation.coordinator.report(simulation.now_ns)
    assert len({(use.prefill_percent, use.decode_percent) for use in report.splits}) > 1
    for lane in report.lanes:
        own = [use for use in report.splits if use.role is lane.role]
        assert sum(use.steps for use in own) == lane.steps
        assert sum(use.busy_us for use in own) == lane.busy_us


def test_steps_without_a_split_of_their_own_are_not_counted_by_split():
    simulation = GreenSimulation(step_split=None)
    simulation.start_all_lanes()
    simulation.submit("a", [1, 2, 3], max_tokens=4)
    simulation.step(simulation.active[Role.PREFILL])
    assert simulation.coordinator.report(simulation.now_ns).splits == []


class TestOnADeviceWithSplitsOfItsOwn:
    SPLITS = legal_splits(132, 8, 8, WIDE)

    def simulation(self, band: Band | None) -> GreenSimulation:
        settings = SplitSettings.of(SLO, ASSUMED_GPU_CURVES, takes_turns=False)
        simulation = GreenSimulation(self.SPLITS, step_split=settings)
        simulation.wish(60, band)
        simulation.start_all_lanes()
        return simulation

    def test_plans_name_the_split_whose_streams_they_run_on(self):
        simulation = self.simulation(band=None)
        simulation.submit("a", [1, 2, 3], max_tokens=4)
        (plan,) = simulation.lanes[simulation.active[Role.PREFILL]].plans
        assert plan.split == SmSplit(prefill_sms=80, decode_sms=52, sm_count=132)

    def test_samples_say_the_percents_of_the_sms_and_the_report_says_what_was_granted(self):
        simulation = self.simulation(band=None)
        simulation.submit("a", [1, 2, 3], max_tokens=4)
        simulation.step(simulation.active[Role.PREFILL])
        (sample,) = simulation.samples(Role.PREFILL)
        assert (sample.prefill_percent, sample.decode_percent) == (60, 39)
        assert simulation.granted() == [(60, 60), (40, 40)], "rounding explains the difference"

    def test_inside_a_band_only_splits_that_exist_are_chosen(self):
        simulation = self.simulation(WIDE)
        run_both(simulation, 30, prefill_ms=30, decode_ms=10)
        assert simulation.choices
        assert {choice.split for choice in simulation.choices} <= {split.partition for split in self.SPLITS}

    def test_a_new_lane_is_granted_what_the_wish_comes_to(self):
        simulation = self.simulation(WIDE)
        simulation.start_lane(Role.PREFILL, percent=10)
        assert simulation.agent_log[-1].requested_percent == 60
        assert simulation.agent_log[-1].granted_percent == 60
