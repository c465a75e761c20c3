"""The executor of a GPU gives the CPU's logits and tokens: its kernels interpreted, its graphs run again, its copies late."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from cpu_steps import CpuSteps, assert_same
from interpreted_executor import InterpretedExecutor
from local_engine import Request, build_engine_config, build_plan
from tiny_llama import write_tiny_llama

from semipd_core import messages
from semipd_core.partition import Role

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only"),
]

GREEDY = messages.Sampling()
SEEDED = messages.Sampling(temperature=0.8, top_k=20, seed=2**64 - 7)
NUCLEUS = messages.Sampling(temperature=1.0, top_p=0.9, seed=11, logprob=True)
ASKING = messages.Sampling(logprob=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("engine")
    model = write_tiny_llama(directory / "model", seed=5, vocab_size=320, max_position_embeddings=64)
    return build_engine_config(
        directory, f"file://{model}", max_rows=4, prefill_budget_tokens=24, mixed_budget_tokens=24
    )


@pytest.fixture(scope="module")
def interpreted(config: Any) -> Iterator[InterpretedExecutor]:
    executor = InterpretedExecutor(config, Role.MIXED)
    assert executor.call("warm_up") == [4, 2, 1]
    yield executor
    executor.stop()


def test_chunks_single_rows_and_run_ahead_give_the_logits_and_tokens_of_the_cpu(
    interpreted: InterpretedExecutor, config: Any
) -> None:
    cpu = CpuSteps(config)
    long = Request(0, range(5, 38), [7, 3, 12, 1], GREEDY)
    short = Request(3, [300, 2, 9], [9, 2], SEEDED)
    single = Request(5, [17], [4, 5], NUCLEUS)
    cpu.run({long: long.row(17)})  # no token is wanted
    cpu.run({long: long.row(16), short: short.row(3)})  # two chunks, of which one has a past
    cpu.run({short: short.row(1, run_ahead=True), long: long.row(1), single: single.row(1)})
    cpu.run({long: long.row(1, run_ahead=True), single: single.row(1, run_ahead=True)})
    late = Request(1, range(40, 46), [10], ASKING)
    cpu.run({single: single.row(1, run_ahead=True), late: late.row(6), long: long.row(1, run_ahead=True)})
    cpu.run({request: request.row(1) for request in (late, single, long, short)})
    cpu.run({late: late.row(1, run_ahead=True)})
    assert assert_same(interpreted, cpu) == [None, None, 4, 2, None, 4, 1]


def test_a_chunk_advanced_one_layer_at_a_time_is_the_same_chunk(
    interpreted: InterpretedExecutor, config: Any
) -> None:
    cpu = CpuSteps(config)
    request = Request(2, range(60, 80), [13, 14], ASKING)
    cpu.run({request: request.row(12)})
    cpu.run({request: request.row(8)})
    cpu.run({request: request.row(1, run_ahead=True)})
    assert_same(interpreted, cpu, layers=1)


def test_a_row_that_wants_no_token_is_launched_kernel_by_kernel(
    interpreted: InterpretedExecutor, config: Any
) -> None:
    cpu = CpuSteps(config)
    first, second = Request(6, [21, 22], [6]), Request(7, [23], [8])
    cpu.run({first: first.row(1), second: second.row(1)})
    cpu.run({second: second.row(1, run_ahead=True), first: first.row(1)})
    assert assert_same(interpreted, cpu) == [None, 2]


def test_a_slot_and_its_blocks_given_to_another_request_start_anew(
    interpreted: InterpretedExecutor, config: Any
) -> None:
    cpu = CpuSteps(config)
    for prompt in (range(90, 107), range(107, 110)):
        request = Request(4, prompt, [15, 16])
        cpu.run({request: request.row(len(prompt))})
        cpu.run({request: request.row(1, run_ahead=True)})
    assert_same(interpreted, cpu)


def test_a_step_beyond_what_the_lane_was_built_for_is_refused(interpreted: InterpretedExecutor) -> None:
    request = Request(0, range(30), [1, 2])
    with pytest.raises(RuntimeError, match="token_ids: 30 values in a step; allowed: at most 24"):
        interpreted.call("run", [build_plan(request.row(30))])


def test_what_pads_a_graph_leaves_numbers_in_the_null_block(interpreted: InterpretedExecutor) -> None:
    assert interpreted.call("null_block_is_finite")


def test_warming_up_ends_between_two_graphs_when_told_to(interpreted: InterpretedExecutor) -> None:
    assert interpreted.call("captures_until", 2) == [4, 2]


def test_the_largest_steps_run_beside_the_graphs_kernel_by_kernel(interpreted: InterpretedExecutor) -> None:
    """A capture empties torch's cache: steps before it would not prove that both fit."""
    captured_before, replayed = interpreted.call("warm_up_order")
    assert captured_before
    assert set(captured_before) == {3}
    assert replayed == []
