"""A sampled token depends on its logits, seed and position alone, and is distributed as asked."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.messages import Sampling
from semipd_engine.model.sampling import gumbel_noise, sample

pytestmark = pytest.mark.slow

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -2.0, -3.0, -4.0]])
SPLITMIX64_OF_0 = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # published test vector


def draw(count: int, **settings) -> list[int]:
    return [sample(LOGITS, [Sampling(seed=11, **settings)], [position])[0].token for position in range(count)]


def chi_square(counts: list[int], probabilities: list[float]) -> float:
    total = sum(counts)
    return sum((n - total * p) ** 2 / (total * p) for n, p in zip(counts, probabilities, strict=True))


def test_temperature_zero_is_greedy() -> None:
    assert set(draw(20)) == {0}


@pytest.mark.parametrize(
    ("temperature", "bound"),
    [
        pytest.param(1.0, 24.3, id="the model's own distribution"),
        pytest.param(2.0, 24.3, id="flatter"),
        pytest.param(0.7, 24.3, id="sharper"),
    ],
)
def test_tokens_are_distributed_by_softmax(temperature: float, bound: float) -> None:
    """bound: the 99.9 % quantile of chi-square with 7 degrees of freedom; the draws are fixed by the seed."""
    tokens = draw(4000, temperature=temperature)
    expected = (LOGITS[0] / temperature).softmax(-1).tolist()
    assert chi_square([tokens.count(token) for token in range(8)], expected) < bound


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        pytest.param({"top_k": 1}, {0}, id="top_k 1 leaves the best"),
        pytest.param({"top_k": 3}, {0, 1, 2}, id="top_k 3 leaves three"),
        pytest.param({"top_k": 100}, set(range(8)), id="top_k above the vocabulary leaves all"),
        pytest.param({"top_p": 0.01}, {0}, id="a small top_p leaves the best"),
        pytest.param({"top_p": 0.7}, {0, 1}, id="top_p leaves the fewest tokens that reach it"),
        pytest.param({"top_k": 2, "top_p": 0.99}, {0, 1}, id="top_k comes before top_p"),
    ],
)
def test_cuts_leave_only_the_likeliest_tokens(settings: dict, allowed: set[int]) -> None:
    assert set(draw(3000, temperature=3.0 if "top_k" in settings else 1.0, **settings)) == allowed


@given(
    batch=st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 9000)), min_size=1, max_size=6),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 50),
    top_p=st.floats(0.05, 1.0),
)
def test_a_choice_is_the_same_whatever_the_batch(batch, temperature, top_k, top_p) -> None:
    logits = torch.randn(len(batch), 64, generator=torch.Generator().manual_seed(1))
    samplings = [Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed) for seed, _ in batch]
    positions = [position for _, position in batch]
    together = sample(logits, samplings, positions)
    alone = [
        sample(logits[row : row + 1], [sampling], [position])[0]
        for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True))
    ]
    assert together == alone


def test_seeds_and_positions_give_different_noise() -> None:
    streams = [gumbel_noise(seed, position, 100) for seed in (0, 1, 2**63, -1) for position in (0, 1, 2)]
    means = torch.stack(streams).mean(-1)
    assert len({float(stream[0]) for stream in streams}) == len(streams)
    assert torch.corrcoef(torch.stack(streams)).fill_diagonal_(0).abs().max() < 0.4
    assert abs(float(means.mean()) - 0.5772) < 0.1


def test_the_generator_is_splitmix64() -> None:
    from semipd_engine.model import sampling

    counters = torch.arange(1, 4) * sampling._signed(sampling._GOLDEN)
    assert [value & sampling._MASK for value in sampling._mix(counters).tolist()] == SPLITMIX64_OF_0
    assert sampling._mix_int(0) == SPLITMIX64_OF_0[0]


def test_log_probability_is_of_the_models_own_distribution() -> None:
    sampling = Sampling(temperature=5.0, top_k=2, seed=3, logprob=True)
    choice = sample(LOGITS, [sampling], [0])[0]
    assert choice.logprob == pytest.approx(math.log(LOGITS[0].softmax(-1)[choice.token]), abs=1e-6)
