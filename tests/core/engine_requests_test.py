"""The life of a request in the coordinator: intake, chunks, hand-over, run-ahead, preemption, the end."""

from __future__ import annotations

import pytest
from engine_simulation import MIXED_ROLES, Simulation, build_config, reference_output

from semipd_core.errors import InvalidSpec
from semipd_core.messages import Abort
from semipd_core.partition import Role


def started(**overrides) -> Simulation:
    simulation = Simulation(build_config(**overrides))
    simulation.start_all_lanes()
    return simulation


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        pytest.param({"roles": (Role.PREFILL,)}, "roles", id="a role is missing"),
        pytest.param({"prefill_policy": "LIFO"}, "prefill_policy", id="unknown policy"),
        pytest.param({"run_ahead": 0}, "run_ahead", id="no step in flight allowed"),
        pytest.param({"num_blocks": 1}, "num_blocks", id="the null block alone"),
        pytest.param({"spf_max_wait_s": -1.0}, "spf_max_wait_s", id="negative wait"),
    ],
)
def test_a_bad_config_names_its_field(overrides, path):
    with pytest.raises(InvalidSpec) as caught:
        build_config(**overrides)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "overrides", "words"),
    [
        pytest.param([], 4, {}, ["prompt", "0", "at least 1"], id="empty prompt"),
        pytest.param([1], 0, {}, ["max_tokens", "0"], id="no token wanted"),
        pytest.param([1] * 64, 1, {}, ["64", "at most 63"], id="the prompt alone fills the context"),
        pytest.param(
            [1] * 20,
            20,
            {"num_blocks": 9},
            ["20 + 20", "10 KV blocks", "at most 8"],
            id="never fits the pool",
        ),
    ],
)
def test_what_can_never_be_served_is_refused_with_numbers(prompt, max_tokens, overrides, words):
    simulation = started(**overrides)
    simulation.submit("a", prompt, max_tokens)
    assert simulation.failed["a"].status == 400
    for word in words:
        assert word in simulation.failed["a"].message
    assert simulation.plans == []


def test_max_tokens_is_cut_to_the_context():
    simulation = started()
    simulation.submit("a", [1] * 60, 1000)
    simulation.run()
    assert len(simulation.outputs["a"]) == 4
    assert simulation.finished["a"] == "length"


def test_a_request_that_just_fits_the_pool_is_served():
    simulation = started(num_blocks=9)
    simulation.submit("a", [1] * 20, 13)
    simulation.run()
    assert simulation.finished["a"] == "length"


def test_a_duplicate_of_a_live_request_is_ignored():
    simulation = started()
    simulation.submit("a", [1, 2, 3])
    simulation.submit("a", [4, 5])
    simulation.run()
    assert simulation.finished == {"a": "length"}


def test_a_long_prompt_is_computed_in_chunks_and_only_the_last_one_samples():
    simulation = started(prefill_budget_tokens=8)
    simulation.submit("a", [1] * 20, max_tokens=1)
    simulation.run()
    rows = [plan.rows[0] for _, plan in simulation.plans]
    assert [(row.start, row.num_tokens, row.sampling is not None) for row in rows] == [
        (0, 8, False),
        (8, 8, False),
        (16, 4, True),
    ]
    assert [row.blocks_from for row in rows] == [0, 5, 5]


def test_the_first_token_is_handed_over_in_the_same_event():
    simulation = started()
    simulation.submit("a", [1, 2, 3])
    simulation.step(simulation.active[Role.PREFILL])
    row = simulation.last_plan(Role.DECODE).rows[0]
    assert (row.start, row.tokens, row.blocks_from, len(row.blocks)) == (3, simulation.outputs["a"], 0, 1)


def test_decode_runs_ahead_of_its_own_tokens():
    simulation = started(run_ahead=2)
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    first, second = (plan for lane_id, plan in simulation.plans if lane_id.startswith("decode"))
    assert [(p.epoch, p.rows[0].start, len(p.rows[0].tokens)) for p in (first, second)] == [
        (1, 3, 1),
        (2, 4, 0),
    ]


@pytest.mark.parametrize("run_ahead", [1, 2, 3])
def test_run_ahead_never_overruns_max_tokens(run_ahead):
    simulation = started(run_ahead=run_ahead)
    simulation.submit("a", [1, 2, 3], max_tokens=5)
    simulation.run()
    assert sum(row.sampling is not None for _, plan in simulation.plans for row in plan.rows) == 5


def test_the_surplus_step_of_a_stopped_request_is_dropped_and_holds_its_blocks():
    simulation = started(run_ahead=2)
    output, _ = reference_output_of([1, 2, 3], 8)
    stop = output[1]
    simulation.submit("a", [1, 2, 3], max_tokens=8, stop_token_ids=[stop])
    simulation.step(simulation.active[Role.PREFILL])
    decode = simulation.active[Role.DECODE]
    while "a" not in simulation.finished:
        simulation.step(decode)
    assert simulation.finished["a"] == "stop"
    assert simulation.lanes[decode].plans
    assert simulation.coordinator.report(simulation.now_ns).kv_blocks_used > 0
    simulation.run()
    assert simulation.coordinator.report(simulation.now_ns).kv_blocks_used == 0


def reference_output_of(prompt, max_tokens):
    simulation = started()
    simulation.submit("a", prompt, max_tokens)
    return reference_output(simulation.submits["a"], 64)


def test_a_resubmitted_request_goes_on_where_its_tokens_ended():
    output, _ = reference_output_of([1, 2, 3], 6)
    simulation = started()
    simulation.submit("a", [1, 2, 3], max_tokens=6, generated=output[:4])
    assert simulation.last_plan(Role.PREFILL).rows[0].num_tokens == 7
    simulation.run()
    assert simulation.outputs["a"] == output


def test_a_resubmitted_request_that_was_complete_ends_at_once():
    output, _ = reference_output_of([1, 2, 3], 3)
    simulation = started()
    simulation.submit("a", [1, 2, 3], max_tokens=3, generated=output)
    assert simulation.finished == {"a": "length"}
    assert simulation.plans == []


def test_an_equal_prefix_is_computed_once():
    simulation = started()
    simulation.submit("a", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    simulation.run()
    simulation.submit("b", [1, 2, 3, 4, 5, 6, 7, 8, 1])
    assert simulation.last_plan(Role.PREFILL).rows[0].start == 8
    assert simulation.coordinator.report(simulation.now_ns).prefix_hit_tokens == 8
    simulation.run()


def test_the_last_prompt_token_is_computed_even_if_all_is_cached():
    simulation = started()
    for name in ("a", "b"):
        simulation.submit(name, [1, 2, 3, 4, 5, 6, 7, 8])
        simulation.run()
    assert simulation.last_plan(Role.PREFILL).rows[0].start == 4


def test_blocks_of_a_step_in_flight_are_no_prefix_yet():
    simulation = started()
    simulation.submit("a", [1, 2, 3, 4, 5, 6, 7, 8, 1])
    simulation.submit("b", [1, 2, 3, 4, 5, 6, 7, 8, 2])
    simulation.step(simulation.active[Role.PREFILL])
    simulation.submit("c", [1, 2, 3, 4, 5, 6, 7, 8, 3])
    starts = {
        name: row.start
        for _, plan in simulation.plans
        for name, row in zip(plan.request_ids, plan.rows, strict=True)
        if len(row.tokens) > 1 or row.start == 8
    }
    assert starts["b"] == 8, "planned after the step of a had completed"
    simulation.run()


def test_an_aborted_request_frees_its_blocks_at_the_step_boundary():
    simulation = started()
    simulation.submit("a", [1, 2, 3])
    simulation.abort("a")
    assert simulation.coordinator.report(simulation.now_ns).kv_blocks_used == 1
    simulation.step(simulation.active[Role.PREFILL])
    assert simulation.coordinator.report(simulation.now_ns).kv_blocks_used == 0
    assert simulation.outputs["a"] == []


def test_the_end_of_the_front_end_aborts_everything():
    simulation = started()
    for name in "abc":
        simulation.submit(name, [1, 2, 3])
    simulation.front_end_gone()
    simulation.run()
    assert simulation.coordinator.report(simulation.now_ns).kv_blocks_used == 0


def test_an_unknown_request_cannot_be_aborted():
    simulation = started()
    simulation.send(Abort(request_id="nobody"))
    assert simulation.plans == []


@pytest.mark.parametrize("roles", [MIXED_ROLES, (Role.PREFILL, Role.DECODE)], ids=["mixed", "split"])
@pytest.mark.parametrize("run_ahead", [1, 2, 3])
def test_requests_that_outgrow_the_pool_are_preempted_and_lose_nothing(roles, run_ahead):
    simulation = started(roles=roles, num_blocks=9, block_tokens=2, run_ahead=run_ahead)
    for name in "abc":
        simulation.submit(name, [1, 2], max_tokens=13)
    simulation.run()
    assert len(simulation.finished) == 3
    assert simulation.coordinator.report(simulation.now_ns).preemptions > 0


def test_the_latest_arrival_is_preempted_and_computes_its_own_tokens_again():
    simulation = started(num_blocks=7, block_tokens=2, prefix_cache=False)
    simulation.submit("old", [1, 2], max_tokens=10)
    simulation.submit("new", [3, 4], max_tokens=10)
    simulation.run()
    starts_anew = [
        (name, row.num_tokens)
        for lane_id, plan in simulation.plans
        for name, row in zip(plan.request_ids, plan.rows, strict=True)
        if lane_id.startswith("prefill") and row.start == 0
    ]
    assert [name for name, _ in starts_anew[:2]] == ["old", "new"]
    assert {name for name, _ in starts_anew[2:]} == {"new"}
    assert all(num_tokens > 2 for _, num_tokens in starts_anew[2:])


def test_results_from_before_a_preemption_are_dropped():
    simulation = started(num_blocks=8, block_tokens=2, run_ahead=2, max_rows=2)
    prefill, decode = simulation.active[Role.PREFILL], simulation.active[Role.DECODE]
    simulation.disconnect(prefill)
    for name, prompt, max_tokens in (
        ("old", [1, 2], 10),
        ("idle", [5, 6, 5, 6, 5, 6], 4),
        ("new", [3, 4], 10),
    ):
        simulation.submit(name, prompt, max_tokens)
    simulation.exit_lane(prefill)
    prefill = simulation.start_lane(Role.PREFILL)
    simulation.step(prefill)
    simulation.step(decode)
    assert simulation.coordinator.report(simulation.now_ns).preemptions == 1
    assert simulation.lanes[decode].plans[0].request_ids == ["old", "new"], "still in flight"
    simulation.abort("idle")
    assert simulation.lanes[prefill].plans[0].request_ids == ["new"], "admitted again"
    num_tokens = len(simulation.outputs["new"])
    simulation.step(decode)
    assert len(simulation.outputs["new"]) == num_tokens
    simulation.run()
    assert simulation.finished == {"old": "length", "new": "length"}


def test_admission_keeps_a_block_per_decoding_request():
    simulation = started(num_blocks=5, prefix_cache=False)
    simulation.submit("a", [1, 2, 3], max_tokens=8)
    simulation.step(simulation.active[Role.PREFILL])
    simulation.submit("b", [1] * 12, max_tokens=1)
    assert simulation.coordinator.report(simulation.now_ns).waiting == 1
    simulation.run()
    assert simulation.coordinator.report(simulation.now_ns).preemptions == 0
    assert len(simulation.finished) == 2


def test_the_mixed_lane_runs_ahead_of_a_prompts_first_token():
    simulation = started(roles=MIXED_ROLES, run_ahead=2)
    simulation.submit("a", [1, 2, 3])
    prompt, decode = (plan.rows[0] for _, plan in simulation.plans)
    assert (prompt.start, prompt.num_tokens, decode.start, decode.tokens) == (0, 3, 3, [])
    simulation.run()
    assert simulation.finished["a"] == "length"
