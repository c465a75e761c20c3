"""The kernels choose the token that the engine on CPU chooses, for every sampling setting, whoever shares the batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_process import KernelProcess

from semipd_core.messages import Sampling
from semipd_engine.model import sampling as on_cpu

pytestmark = pytest.mark.slow

VOCAB = 200  # three tiles of logits and part of a fourth


def choose(
    interpreter: KernelProcess,
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    positions: Sequence[int],
    **kwargs: bool,
) -> list[int]:
    seeds = [(s.seed + 2**63) % 2**64 - 2**63 for s in samplings]
    return interpreter.call(
        "sampling.sample",
        logits,
        torch.tensor([s.temperature for s in samplings], dtype=torch.float64),
        torch.tensor([s.top_k for s in samplings]),
        torch.tensor([s.top_p for s in samplings], dtype=torch.float64),
        torch.tensor(seeds),
        torch.tensor(positions),
        **kwargs,
    ).tolist()


def choose_on_cpu(logits: torch.Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
    return [choice.token for choice in on_cpu.sample(logits, samplings, positions)]


def random_logits(rows: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


SETTINGS = {
    "greedy": {"temperature": 0.0},
    "the whole distribution": {"temperature": 1.0},
    "hot": {"temperature": 2.5},
    "top_k of one": {"temperature": 1.0, "top_k": 1},
    "top_k": {"temperature": 1.5, "top_k": 20},
    "top_k as large as the vocabulary": {"temperature": 1.0, "top_k": VOCAB},
    "a top_p that only the best reaches": {"temperature": 1.0, "top_p": 1e-9},
    "top_p": {"temperature": 1.5, "top_p": 0.7},
    "top_k before top_p": {"temperature": 2.0, "top_k": 30, "top_p": 0.9},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_each_setting_chooses_as_on_cpu(interpreter: KernelProcess, setting: dict) -> None:
    rows = 6
    samplings = [Sampling(seed=seed, **setting) for seed in (0, 1, 2**31, 2**63, 2**64 - 1, -5)]
    positions = [1, 2, 77, 4096, 131_071, 5]
    logits = random_logits(rows)
    assert choose(interpreter, logits, samplings, positions) == choose_on_cpu(logits, samplings, positions)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.builds(
            Sampling,
            temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
            top_k=st.sampled_from([0, 1, 7, 60, 500]),
            top_p=st.sampled_from([0.03, 0.61, 0.97, 1.0]),
            seed=st.integers(0, 2**64 - 1),
        ),
        min_size=1,
        max_size=4,
    ),
    position=st.integers(0, 2**20),
    seed=st.integers(0, 99),
    spread=st.sampled_from([0.5, 3.0, 9.0]),
)
def test_any_batch_chooses_as_on_cpu(
    interpreter: KernelProcess, rows: list[Sampling], position: int, seed: int, spread: float
) -> None:
    logits = random_logits(len(rows), seed, spread)
    positions = [position + row for row in range(len(rows))]
    assert choose(interpreter, logits, rows, positions) == choose_on_cpu(logits, rows, positions)


@pytest.mark.parametrize("cuts", [{"top_k": 5}, {"top_p": 0.4}, {"top_k": 50, "top_p": 0.6}])
def test_of_equal_logits_the_lower_ids_are_candidates(interpreter: KernelProcess, cuts: dict) -> None:
    """Of top_p, shares that equal no sum of equal shares, so that no rounding decides."""
    logits = random_logits(4, spread=1.0).round() * torch.tensor([[1.0], [-1.0]] * 2)
    samplings = [Sampling(temperature=1.0, seed=seed, **cuts) for seed in range(4)]
    positions = list(range(4))
    assert choose(interpreter, logits, samplings, positions) == choose_on_cpu(logits, samplings, positions)


def test_zeros_are_equal_whatever_their_sign(interpreter: KernelProcess) -> None:
    logits = torch.full((1, VOCAB), -1.0)
    logits[0, [20, 90]] = torch.tensor([-0.0, 0.0])
    best_only = [Sampling(temperature=1.0, top_k=1)]
    assert choose(interpreter, logits, best_only, [0]) == choose_on_cpu(logits, best_only, [0]) == [20]


def test_greedy_takes_the_first_of_the_best(interpreter: KernelProcess) -> None:
    logits = torch.zeros(2, VOCAB)
    logits[0, [70, 190]] = 1.0
    logits[1] = float("-inf")
    logits[1, 199] = -3.0
    assert choose(interpreter, logits, [Sampling()] * 2, [0, 0]) == [70, 199]


def test_a_forbidden_token_is_never_chosen(interpreter: KernelProcess) -> None:
    logits = torch.full((4, VOCAB), float("-inf"))
    logits[:, [3, 150]] = torch.tensor([0.5, 0.0])
    samplings = [
        Sampling(temperature=2.0, seed=seed, top_k=100 * (seed % 2), top_p=1.0 - 0.2 * (seed // 2))
        for seed in range(4)
    ]
    positions = [9, 8, 7, 6]
    assert choose(interpreter, logits, samplings, positions) == choose_on_cpu(logits, samplings, positions)


def test_a_row_chooses_alone_as_in_a_batch(interpreter: KernelProcess) -> None:
    logits = random_logits(4)
    samplings = [Sampling(temperature=1.0, seed=seed, top_p=0.8) for seed in range(4)]
    together = choose(interpreter, logits, samplings, [5] * 4)
    assert choose(interpreter, logits[2:3], samplings[2:3], [5]) == together[2:3]


def test_without_cuts_a_launch_is_saved_and_nothing_else(interpreter: KernelProcess) -> None:
    logits = random_logits(3)
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in range(3)]
    chosen = choose(interpreter, logits, samplings, [4] * 3, has_cuts=False)
    assert chosen == choose_on_cpu(logits, samplings, [4] * 3)


def test_wrong_tensors_are_refused_by_name(interpreter: KernelProcess) -> None:
    with pytest.raises(ValueError, match=r"logits: torch\.float16; allowed: torch\.float32"):
        choose(interpreter, random_logits(1).half(), [Sampling()], [0])
    with pytest.raises(ValueError, match=r"positions: shape \(2,\), torch.int64; allowed: \(1,\)"):
        choose(interpreter, random_logits(1), [Sampling()], [0, 0])
