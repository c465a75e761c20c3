"""Ranks of a lane on GPUs, without the GPUs: kernels interpreted, sums over gloo. Two give the tokens of the CPU's one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from cpu_steps import CpuSteps, assert_same
from interpreted_executor import InterpretedExecutor
from local_engine import Request, build_engine_config
from tiny_llama import write_tiny_llama

from semipd_core import messages
from semipd_core.partition import Role

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only"),
]

SEEDED = messages.Sampling(temperature=0.8, top_k=20, seed=2**64 - 7)
NUCLEUS = messages.Sampling(temperature=1.0, top_p=0.9, seed=11, logprob=True)
NUM_RANKS = 2


class RankedExecutor:
    """One executor to each rank, called at the same time; the answer is the first rank's."""

    def __init__(self, config: Any, role: Role) -> None:
        self._pool = ThreadPoolExecutor(NUM_RANKS)
        self._ranks = [InterpretedExecutor() for _ in range(NUM_RANKS)]
        for built in [
            self._pool.submit(each.call, "build", config, role, rank) for rank, each in enumerate(self._ranks)
        ]:
            built.result()

    def call(self, method: str, *args: Any) -> Any:
        return self.call_all(method, *args)[0]

    def call_all(self, method: str, *args: Any) -> list[Any]:
        return [
            each.result() for each in [self._pool.submit(rank.call, method, *args) for rank in self._ranks]
        ]

    def stop(self) -> None:
        for rank in self._ranks:
            rank.stop()
        self._pool.shutdown()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of one rank; the vocabulary does not divide by two."""
    directory = tmp_path_factory.mktemp("engine")
    model = write_tiny_llama(directory / "model", seed=5, vocab_size=321, max_position_embeddings=64)
    return build_engine_config(
        directory, f"file://{model}", max_rows=4, prefill_budget_tokens=24, mixed_budget_tokens=24
    )


@pytest.fixture(scope="module")
def ranked(config: Any) -> Iterator[RankedExecutor]:
    executor = RankedExecutor(msgspec.structs.replace(config, num_ranks=NUM_RANKS), Role.MIXED)
    try:
        assert executor.call_all("warm_up") == [[4, 2, 1]] * NUM_RANKS
        yield executor
    finally:
        executor.stop()


def test_two_ranks_give_the_logits_and_tokens_of_one_through_chunks_graphs_and_run_ahead(
    ranked: RankedExecutor, config: Any
) -> None:
    cpu = CpuSteps(config)
    long = Request(0, range(5, 38), [7, 3, 12, 1])
    short = Request(3, [300, 2, 9], [9, 2], SEEDED)
    single = Request(5, [17], [4, 5], NUCLEUS)
    cpu.run({long: long.row(17)})  # no token is wanted
    cpu.run({long: long.row(16), short: short.row(3)})
    cpu.run({short: short.row(1, run_ahead=True), long: long.row(1), single: single.row(1)})
    cpu.run({long: long.row(1, run_ahead=True), single: single.row(1, run_ahead=True)})
    cpu.run({short: short.row(1, run_ahead=True), single: single.row(1, run_ahead=True)})
    assert assert_same(ranked, cpu) == [None, None, 4, 2, 2]


def test_every_rank_has_the_tokens_that_the_first_has_chosen(ranked: RankedExecutor, config: Any) -> None:
    """So a row whose token no plan names is the same sequence with each of them."""
    cpu = CpuSteps(config)
    request = Request(2, range(60, 72), [13, 14], SEEDED)
    cpu.run({request: request.row(12)})
    for _ in range(3):
        cpu.run({request: request.row(1, run_ahead=True)})
    answers = ranked.call_all("run", cpu.plans)
    chosen = [[outcome.tokens for outcome, _, _ in of_rank] for of_rank in answers]
    assert chosen == [[tokens for tokens, _, _ in cpu.steps]] * NUM_RANKS


def test_warming_up_ends_with_all_ranks_between_two_graphs(ranked: RankedExecutor) -> None:
    assert ranked.call_all("captures_until", 2) == [[4, 2]] * NUM_RANKS
