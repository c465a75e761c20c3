"""Lanes come, are swapped, are lost: what the agent is told and what becomes of the rows."""

from __future__ import annotations

import pytest
from engine_simulation import MIXED_ROLES, NS_PER_MS, Simulation, build_config

from semipd_core.engine.coordinator import Coordinator, ToAgent, ToLane
from semipd_core.messages import LaneAttached, LaneHello, LaneLost, StepPlan, StepResult, Stop, Swapped
from semipd_core.partition import Role


def started(**overrides) -> Simulation:
    simulation = Simulation(build_config(**overrides))
    simulation.start_all_lanes()
    simulation.agent_log.clear()
    return simulation


def report_of(simulation):
    return simulation.coordinator.report(simulation.now_ns)


def test_the_first_lane_of_a_role_becomes_active_at_once():
    simulation = Simulation(build_config())
    lane_id = simulation.start_lane(Role.PREFILL, percent=60)
    assert simulation.agent_log == [
        LaneAttached(lane_id=lane_id, role=Role.PREFILL, pid=1, requested_percent=60, granted_percent=60),
        Swapped(lane_id=lane_id, old_lane_id=None),
    ]


def test_a_second_lane_stands_by():
    simulation = started()
    lane_id = simulation.start_lane(Role.DECODE)
    assert [type(message) for message in simulation.agent_log] == [LaneAttached]
    (lane,) = [lane for lane in report_of(simulation).lanes if lane.lane_id == lane_id]
    assert not lane.active


def test_a_lane_without_a_role_here_is_stopped():
    hello = LaneHello(lane_id="m", role=Role.MIXED, pid=1, requested_percent=100, granted_percent=100)
    assert Coordinator(build_config()).handle(hello, 0) == [ToLane(lane_id="m", message=Stop())]


def test_a_swap_waits_for_the_step_in_flight_and_resends_all_rows():
    simulation = started()
    simulation.submit("a", [1, 2, 3, 4, 5], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    old = simulation.active[Role.DECODE]
    new = simulation.start_lane(Role.DECODE)
    simulation.agent_log.clear()
    simulation.swap(new)
    assert simulation.agent_log == []
    simulation.step(old)
    assert simulation.agent_log == [Swapped(lane_id=new, old_lane_id=old)]
    assert old not in simulation.lanes, "the old lane got its Stop"
    plan = simulation.lanes[new].plans[0]
    assert (plan.epoch, plan.rows[0].blocks_from, len(plan.rows[0].blocks)) == (1, 0, 2)
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_an_idle_lane_is_swapped_at_once_and_the_stop_precedes_the_news():
    simulation = started()
    new = simulation.start_lane(Role.PREFILL)
    simulation.agent_log.clear()
    simulation.swap(new)
    assert simulation.active[Role.PREFILL] == new
    assert len(simulation.agent_log) == 1


def test_a_lane_that_is_kept_stands_by_and_takes_over_again_from_the_last_token():
    simulation = started()
    simulation.submit("a", [1, 2, 3, 4, 5], max_tokens=12)
    simulation.step(simulation.active[Role.PREFILL])
    old = simulation.active[Role.DECODE]
    new = simulation.start_lane(Role.DECODE)
    simulation.agent_log.clear()
    simulation.swap(new, keeps_old=True)
    simulation.step(old)
    assert simulation.agent_log == [Swapped(lane_id=new, old_lane_id=old, is_old_kept=True)]
    assert (old in simulation.lanes, list(simulation.lanes[old].plans)) == (True, []), "no Stop and no work"
    simulation.step(new)
    simulation.swap(old)
    simulation.step(new)
    assert new not in simulation.lanes, "not kept, so it got its Stop"
    plan = simulation.lanes[old].plans[0]
    assert (plan.epoch, plan.rows[0].blocks_from) == (2, 0), (
        "its epochs go on; it is told of all blocks again"
    )
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_the_death_of_a_lane_that_stands_by_costs_nobody_anything():
    simulation = started()
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    old = simulation.active[Role.DECODE]
    simulation.swap(simulation.start_lane(Role.DECODE), keeps_old=True)
    simulation.step(old)
    simulation.agent_log.clear()
    simulation.kill(old)
    assert simulation.agent_log == [LaneLost(lane_id=old, role=Role.DECODE)]
    assert report_of(simulation).lane_restarts == 0
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_a_lane_that_stands_by_takes_over_when_the_active_one_is_lost():
    simulation = started()
    old = simulation.active[Role.DECODE]
    new = simulation.start_lane(Role.DECODE)
    simulation.swap(new, keeps_old=True)
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    simulation.kill(new)
    assert simulation.active[Role.DECODE] == old
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_no_step_is_planned_onto_a_lane_that_is_to_go():
    simulation = started(run_ahead=3)
    simulation.submit("a", [1, 2, 3], max_tokens=20)
    simulation.step(simulation.active[Role.PREFILL])
    old = simulation.active[Role.DECODE]
    simulation.swap(simulation.start_lane(Role.DECODE))
    num_plans = len(simulation.lanes[old].plans)
    simulation.step(old)
    assert len(simulation.lanes[old].plans) == num_plans - 1


def test_a_swap_to_the_active_lane_is_answered_at_once():
    simulation = started()
    active = simulation.active[Role.DECODE]
    simulation.swap(active)
    assert simulation.agent_log == [Swapped(lane_id=active, old_lane_id=None)]


def test_a_swap_to_an_unknown_lane_changes_nothing():
    simulation = started()
    simulation.swap("nobody")
    assert simulation.agent_log == []


def test_the_loss_of_a_swaps_target_cancels_the_swap():
    simulation = started()
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    new = simulation.start_lane(Role.DECODE)
    simulation.swap(new)
    simulation.agent_log.clear()
    simulation.kill(new)
    assert simulation.agent_log == [LaneLost(lane_id=new, role=Role.DECODE)]
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_lost_rows_run_again_only_after_the_exit_is_confirmed():
    simulation = started()
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    old = simulation.active[Role.DECODE]
    lost_row = simulation.lanes[old].plans[0].rows[0]
    new = simulation.start_lane(Role.DECODE)
    simulation.agent_log.clear()
    simulation.disconnect(old)
    assert simulation.agent_log == [
        LaneLost(lane_id=old, role=Role.DECODE),
        Swapped(lane_id=new, old_lane_id=None),
    ]
    assert not simulation.lanes[new].plans
    simulation.exit_lane(old)
    row = simulation.lanes[new].plans[0].rows[0]
    assert (row.start, row.tokens, row.blocks) == (lost_row.start, lost_row.tokens, lost_row.blocks)
    assert report_of(simulation).lane_restarts == 1
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_an_exit_known_before_the_disconnect_counts_as_both():
    simulation = started()
    simulation.submit("a", [1, 2, 3])
    simulation.exit_lane(simulation.active[Role.PREFILL])
    assert [type(message) for message in simulation.agent_log] == [LaneLost]
    simulation.start_lane(Role.PREFILL)
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_aborting_a_suspended_request_keeps_its_blocks_until_the_exit():
    simulation = started(prefix_cache=False)
    simulation.submit("a", [1, 2, 3])
    lane_id = simulation.active[Role.PREFILL]
    simulation.disconnect(lane_id)
    simulation.abort("a")
    assert report_of(simulation).kv_blocks_used == 1
    simulation.exit_lane(lane_id)
    assert report_of(simulation).kv_blocks_used == 0


@pytest.mark.parametrize("run_ahead", [1, 2, 3])
@pytest.mark.parametrize("roles", [MIXED_ROLES, (Role.PREFILL, Role.DECODE)], ids=["mixed", "split"])
def test_suspects_run_alone_until_a_step_of_theirs_has_succeeded(roles, run_ahead):
    simulation = started(roles=roles, run_ahead=run_ahead)
    for name in "abc":
        simulation.submit(name, [1, 2, 3], max_tokens=12)
    role = roles[-1]
    simulation.step_all(times=4)
    suspects = {name for plan in simulation.lanes[simulation.active[role]].plans for name in plan.request_ids}
    assert len(suspects) > 1
    simulation.kill(simulation.active[role])
    lane_id = simulation.start_lane(role)
    for _ in range(len(suspects)):
        (plan,) = simulation.lanes[lane_id].plans
        assert len(plan.rows) == 1
        suspects.discard(plan.request_ids[0])
        simulation.step(lane_id)
    assert suspects == set()
    assert len(simulation.lanes[lane_id].plans[0].rows) > 1
    simulation.run()
    assert len(simulation.finished) == 3


def test_a_suspect_does_not_join_steps_in_flight_of_others():
    simulation = started(run_ahead=2, max_rows=1)
    simulation.submit("a", [1, 2, 3], max_tokens=12)
    simulation.submit("b", [1, 2, 4], max_tokens=12)
    simulation.step_all(times=2)
    old = simulation.active[Role.DECODE]
    new = simulation.start_lane(Role.DECODE)
    simulation.disconnect(old)
    assert [plan.request_ids for plan in simulation.lanes[new].plans] == [["b"], ["b"]]
    simulation.exit_lane(old)
    simulation.step(new)
    assert [plan.request_ids for plan in simulation.lanes[new].plans] == [["b"]]
    simulation.step(new)
    assert [plan.request_ids for plan in simulation.lanes[new].plans] == [["a"]]
    simulation.run()
    assert len(simulation.finished) == 2


def test_a_request_that_takes_two_lanes_down_fails_and_the_others_go_on():
    simulation = started()
    for name in "abc":
        simulation.submit(name, [1, 2, 3], max_tokens=8)
    simulation.step_all(times=3)
    while len(simulation.lanes[simulation.active[Role.DECODE]].plans[0].rows) < 3:
        simulation.step(simulation.active[Role.DECODE])
    for _ in range(2):
        simulation.kill(simulation.active[Role.DECODE])
        simulation.start_lane(Role.DECODE)
    simulation.run()
    (failed,) = simulation.failed.values()
    assert failed.status == 500
    assert len(simulation.finished) == 2


def test_a_prompt_that_takes_two_lanes_down_fails_too():
    simulation = started(roles=MIXED_ROLES)
    simulation.submit("poison", [1, 2, 3])
    for _ in range(2):
        simulation.kill(simulation.active[Role.MIXED])
        simulation.start_lane(Role.MIXED)
    assert simulation.failed["poison"].status == 500


def test_a_suspect_that_succeeded_once_survives_another_loss():
    simulation = started()
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    for _ in range(3):
        simulation.kill(simulation.active[Role.DECODE])
        simulation.start_lane(Role.DECODE)
        simulation.step(simulation.active[Role.DECODE])
    simulation.run()
    assert simulation.finished["a"] == "length"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"epoch": 9}, id="an epoch that was not asked for"),
        pytest.param({"tokens": []}, id="a row is missing"),
        pytest.param({"tokens": [None]}, id="no token where one was wanted"),
    ],
)
def test_a_lane_that_answers_nonsense_is_stopped_and_counts_as_lost(change):
    simulation = started()
    simulation.submit("a", [1, 2, 3])
    lane_id = simulation.active[Role.PREFILL]
    fields = {"epoch": 1, "tokens": [1], "logprobs": [None]} | change
    fields["logprobs"] = [None] * len(fields["tokens"])
    result = StepResult(lane_id=lane_id, started_ns=0, finished_ns=1, compute_ns=1, **fields)
    effects = simulation.coordinator.handle(result, 0)
    assert effects == [
        ToLane(lane_id=lane_id, message=Stop()),
        ToAgent(message=LaneLost(lane_id=lane_id, role=Role.PREFILL)),
    ]


def test_a_lane_of_a_name_used_before_starts_from_nothing():
    simulation = started(roles=MIXED_ROLES)
    lane_id = simulation.active[Role.MIXED]
    simulation.submit("a", [1, 2, 3], max_tokens=6)
    simulation.step(lane_id)
    simulation.kill(lane_id)
    simulation.start_lane(Role.MIXED, lane_id=lane_id)
    assert simulation.lanes[lane_id].plans[0].epoch == 1
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_samples_tell_how_long_the_other_lane_worked_too():
    simulation = started(run_ahead=1)
    simulation.submit("a", [1, 2, 3], max_tokens=20)
    simulation.step(simulation.active[Role.PREFILL])
    simulation.submit("b", [1] * 12, max_tokens=20)
    decode, prefill = simulation.active[Role.DECODE], simulation.active[Role.PREFILL]
    simulation.step(decode, wall_ns=10 * NS_PER_MS)
    samples = report_of(simulation).samples
    sample = samples[-1]
    assert (sample.role, sample.rows, sample.tokens, sample.context_tokens) == (Role.DECODE, 1, 1, 4)
    assert (sample.wall_us, sample.compute_us) == (10_000, 5_000)
    assert sample.contended_permille == 1000, "the prompt of b was in flight all the time"
    assert samples[0].contended_permille == 0
    assert simulation.lanes[prefill].plans


def test_counters_are_those_of_the_role_over_all_its_lanes():
    simulation = started()
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    simulation.step(simulation.active[Role.DECODE])
    simulation.swap(simulation.start_lane(Role.DECODE))
    simulation.run()
    (decode,) = [lane for lane in report_of(simulation).lanes if lane.role is Role.DECODE]
    assert (decode.steps, decode.tokens, decode.busy_us, decode.compute_us) == (7, 7, 7000, 3500)


def test_samples_are_the_latest_64_per_role():
    simulation = started(max_context_tokens=128)
    simulation.submit("a", [1, 2, 3], max_tokens=100)
    simulation.run()
    samples = report_of(simulation).samples
    assert [sum(sample.role is role for sample in samples) for role in (Role.PREFILL, Role.DECODE)] == [1, 64]


def test_caps_set_without_a_new_lane_are_reported():
    simulation = started()
    simulation.coordinator.set_caps(40, 90)
    simulation.submit("a", [1, 2, 3])
    simulation.run()
    report = report_of(simulation)
    assert [(lane.role, lane.granted_percent) for lane in report.lanes] == [
        (Role.PREFILL, 40),
        (Role.DECODE, 90),
    ]
    assert (report.samples[-1].prefill_percent, report.samples[-1].decode_percent) == (40, 90)


def test_queues_are_reported():
    simulation = started(num_slots=1, prefill_budget_tokens=4)
    simulation.submit("a", [1] * 8)
    simulation.submit("b", [1] * 6)
    simulation.step(simulation.active[Role.PREFILL])
    report = report_of(simulation)
    assert (report.waiting, report.prefilling, report.decoding) == (1, 1, 0)
    assert report.waiting_tokens == 4 + 6
    assert report.oldest_wait_ms > 0
    assert report.kv_blocks_total == 32
    assert [lane.batch for lane in report.lanes] == [1, 0]


def test_plans_are_effects_of_the_event_that_made_room():
    simulation = started()
    simulation.submit("a", [1, 2, 3])
    assert isinstance(simulation.plans[0][1], StepPlan)
    assert len(simulation.plans) == 1
