"""However the coordinator cuts, mixes and orders the work, the tokens are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_engine import FreeTurns, Request, attach_locally, build_engine_config, build_plan
from tiny_family import V2, write_tiny_family

from semipd_core import messages
from semipd_engine.model.batch import GROUP_WASTE_MAX, group_by_length
from semipd_engine.model.executor import Executor

pytestmark = pytest.mark.slow

PROMPTS = [list(range(5, 6)), list(range(10, 60)), [9, 8, 7] * 30, list(range(100, 133)), [300] * 16]
NUM_TOKENS = 6
BLOCKS_EACH = 8
WITH_LOGPROB = messages.Sampling(logprob=True)


@pytest.fixture(scope="module", params=["Llama", "DeepSeek-V2"])
def executor(request: pytest.FixtureRequest, tmp_path_factory, tiny_llama_dir: Path) -> Executor:
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("engine")
    is_llama = request.param == "Llama"
    model = tiny_llama_dir if is_llama else write_tiny_family(directory / "model", "deepseek_v2", **V2)
    config = build_engine_config(directory, f"file://{model}")
    return Executor.build(config, attach_locally(config))


@pytest.fixture(scope="module")
def expected(executor: Executor) -> list[list[int]]:
    """Each prompt alone, in one piece."""
    return [run(executor, [Request(0, prompt, range(1, 9))])[0] for prompt in PROMPTS]


def run(executor: Executor, requests: list[Request], sizes: st.DataObject | None = None) -> list[list[int]]:
    """Drive all requests together, each prompt in pieces that `sizes` draws, until each has its tokens."""
    lengths = [len(request.tokens) + NUM_TOKENS for request in requests]
    while open_requests := [r for r, length in zip(requests, lengths, strict=True) if len(r.tokens) < length]:
        rows = []
        for request in open_requests:
            left = len(request.tokens) - request.computed
            rows.append(request.row(left if sizes is None else sizes.draw(st.integers(1, left))))
        tokens, _ = executor.execute(build_plan(*rows), FreeTurns())
        for request, row, token in zip(open_requests, rows, tokens, strict=True):
            assert (token is None) == (row.sampling is None)
            if token is not None:
                request.tokens.append(token)
    return [request.tokens[-NUM_TOKENS:] for request in requests]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_chunking_mixing_and_order_of_blocks_gives_the_same_tokens(executor, expected, data) -> None:
    order = data.draw(st.permutations(range(len(PROMPTS))))
    blocks = data.draw(st.permutations(range(1, 1 + BLOCKS_EACH * len(PROMPTS))))
    requests = [
        Request(slot, PROMPTS[which], blocks[slot * BLOCKS_EACH : (slot + 1) * BLOCKS_EACH])
        for slot, which in enumerate(order)
    ]
    assert run(executor, requests, data) == [expected[which] for which in order]


def test_a_run_ahead_row_takes_the_token_sampled_last_for_its_slot(executor, expected) -> None:
    requests = [Request(slot, PROMPTS[slot + 1], range(1 + 8 * slot, 9 + 8 * slot)) for slot in range(2)]
    plans = [build_plan(*[request.row(len(request.tokens)) for request in requests])]
    plans += [build_plan(*[r.row(1, run_ahead=True) for r in requests]) for _ in range(NUM_TOKENS - 1)]
    steps = [executor.execute(plan, FreeTurns())[0] for plan in plans]
    assert [list(tokens) for tokens in zip(*steps, strict=True)] == expected[1:3]


def test_blocks_of_another_request_with_the_same_prefix_are_reused(executor, expected) -> None:
    first = Request(0, PROMPTS[1], range(1, 9))
    run(executor, [first])
    shared, own = [1, 2, 3], [20, 21, 22]  # 48 of the 50 prompt tokens
    second = Request(1, PROMPTS[1], [*shared, *own])
    second.computed = 48
    assert run(executor, [second]) == [expected[1]]


def test_a_slot_given_to_another_request_starts_anew(executor, expected) -> None:
    run(executor, [Request(3, PROMPTS[2], range(1, 9))])
    assert run(executor, [Request(3, PROMPTS[3], range(30, 38))]) == [expected[3]]


def test_a_repeated_step_gives_the_same_token(executor) -> None:
    request = Request(0, PROMPTS[1], range(1, 9))
    plan = build_plan(request.row(50))
    assert executor.execute(plan, FreeTurns()) == executor.execute(plan, FreeTurns())


def test_log_probabilities_come_with_the_rows_that_ask(executor) -> None:
    asking = Request(0, PROMPTS[1], range(1, 9), WITH_LOGPROB)
    silent = Request(1, PROMPTS[2], range(9, 17))
    _, logprobs = executor.execute(build_plan(asking.row(50), silent.row(90)), FreeTurns())
    assert logprobs[0] < 0
    assert logprobs[1] is None


@given(lengths=st.lists(st.integers(1, 9000), max_size=40).map(sorted))
def test_groups_cover_all_rows_and_waste_little(lengths: list[int]) -> None:
    groups = group_by_length(lengths)
    assert [index for part in groups for index in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in groups:
        members = lengths[part]
        assert len(members) == 1 or members[-1] * len(members) <= GROUP_WASTE_MAX * sum(members)
