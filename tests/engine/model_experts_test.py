"""The router chooses as that of transformers, and however experts are computed, the sums are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from asks_no_host import AsksNoHost
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts, DeepseekV2TopkRouter

from semipd_engine.model.config import ExpertsConfig
from semipd_engine.model.experts import compute_grouped, compute_looped, is_grouped, route

HIDDEN, INNER = 16, 24
seeds = st.integers(0, 1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@st.composite
def routers(draw: st.DrawFn) -> ExpertsConfig:
    groups, group_size = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    groups_per_token = draw(st.integers(1, groups))
    return ExpertsConfig(
        num_experts=groups * group_size,
        num_shared_experts=1,
        experts_per_token=draw(st.integers(1, groups_per_token * group_size)),
        intermediate_size=INNER,
        first_layer=0,
        layer_step=1,
        num_groups=groups,
        groups_per_token=groups_per_token,
        routed_scaling_factor=draw(st.sampled_from([1.0, 2.5, 16.0])),
    )


def theirs(config: ExpertsConfig) -> DeepseekV2Config:
    return DeepseekV2Config(
        hidden_size=HIDDEN,
        num_attention_heads=1,
        moe_intermediate_size=INNER,
        n_routed_experts=config.num_experts,
        num_experts_per_tok=config.experts_per_token,
        n_group=config.num_groups,
        topk_group=config.groups_per_token,
        topk_method="group_limited_greedy" if config.num_groups > 1 else "greedy",
        routed_scaling_factor=config.routed_scaling_factor,
    )


def dense(weights: Tensor, chosen: Tensor, experts: int) -> Tensor:
    """(tokens, experts): the weight of each expert, 0 of those not chosen."""
    return torch.zeros(len(weights), experts).scatter_(1, chosen, weights)


@given(config=routers(), tokens=st.integers(1, 9), seed=seeds)
def test_the_router_chooses_and_weighs_as_that_of_transformers(
    config: ExpertsConfig, tokens: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, HIDDEN, generator=generator)
    router = DeepseekV2TopkRouter(theirs(config))
    torch.nn.init.normal_(router.weight, generator=generator)
    with torch.inference_mode():
        _, weights, chosen = router(hidden)
        ours = route(hidden @ router.weight.T, config)
    expected = dense(weights, chosen, config.num_experts)
    torch.testing.assert_close(dense(*ours, config.num_experts), expected)
    assert ours[1].shape == (tokens, config.experts_per_token)


def draw_work(config: ExpertsConfig, tokens: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Hidden states, weights of experts, and what `route` says."""
    generator = torch.Generator().manual_seed(seed)
    experts = config.num_experts
    hidden = torch.randn(tokens, HIDDEN, generator=generator)
    gate_up = torch.randn(experts, 2 * INNER, HIDDEN, generator=generator) / HIDDEN**0.5
    down = torch.randn(experts, HIDDEN, INNER, generator=generator) / INNER**0.5
    weights, chosen = route(torch.randn(tokens, experts, generator=generator) * 3, config)
    return hidden.to(dtype), gate_up.to(dtype), down.to(dtype), weights, chosen


@given(config=routers(), tokens=st.integers(1, 20), seed=seeds)
def test_grouped_and_looped_experts_are_those_of_transformers(
    config: ExpertsConfig, tokens: int, seed: int
) -> None:
    work = draw_work(config, tokens, seed, torch.float32)
    hidden, gate_up, down, weights, chosen = work
    experts = DeepseekV2Experts(theirs(config))
    experts.gate_up_proj.data, experts.down_proj.data = gate_up, down
    with torch.inference_mode():
        expected = experts(hidden, chosen, weights)
    torch.testing.assert_close(compute_grouped(*work), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compute_looped(*work), expected, rtol=1e-4, atol=1e-4)


@given(config=routers(), seed=seeds)
def test_grouped_and_looped_experts_agree_in_bf16(config: ExpertsConfig, seed: int) -> None:
    work = draw_work(config, 12, seed, torch.bfloat16)
    scale = config.routed_scaling_factor
    torch.testing.assert_close(compute_grouped(*work), compute_looped(*work), rtol=2e-2, atol=2e-2 * scale)


def test_router_and_grouped_experts_never_ask_the_host() -> None:
    config = ExpertsConfig(
        num_experts=8,
        num_shared_experts=1,
        experts_per_token=3,
        intermediate_size=INNER,
        first_layer=0,
        layer_step=1,
        num_groups=4,
        groups_per_token=2,
        routed_scaling_factor=1.0,
    )
    hidden, gate_up, down, *_ = draw_work(config, 6, 0, torch.float32)
    logits = torch.randn(6, 8)
    with torch.inference_mode(), AsksNoHost():
        compute_grouped(hidden, gate_up, down, *route(logits, config))
    with pytest.raises(AssertionError, match="aten"), torch.inference_mode(), AsksNoHost():
        compute_looped(hidden, gate_up, down, *route(logits, config))


@pytest.mark.parametrize(
    ("columns", "dtype", "expected"),
    [
        pytest.param(64, torch.float32, True, id="whole lines of fp32"),
        pytest.param(64, torch.bfloat16, True, id="whole lines of bf16"),
        pytest.param(12, torch.float32, True, id="12 of fp32 are 48 bytes"),
        pytest.param(12, torch.bfloat16, False, id="12 of bf16 are 24 bytes"),
    ],
)
def test_experts_are_grouped_where_torch_can(columns: int, dtype: torch.dtype, expected: bool) -> None:
    assert is_grouped(torch.empty(2, 8, columns, dtype=dtype)) is expected


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        pytest.param((9, 0), torch.bfloat16, True, id="Hopper"),
        pytest.param((10, 3), torch.bfloat16, True, id="Blackwell of data centres"),
        pytest.param((12, 0), torch.bfloat16, False, id="Blackwell of desktops asks the host"),
        pytest.param((8, 0), torch.bfloat16, False, id="Ampere asks the host"),
        pytest.param((9, 0), torch.float32, False, id="fp32 asks the host"),
    ],
)
def test_experts_are_grouped_on_gpus_that_ask_no_host(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert is_grouped(torch.empty(2, 8, 64, dtype=dtype, device="meta")) is expected
