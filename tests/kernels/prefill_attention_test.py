"""Attention of prompt chunks in Triton's interpreter answers what the engine on CPU answers, however prompts are cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_process import KernelProcess
from paged_rows import PagedRows, Shape, assert_near, build_paged_rows

pytestmark = pytest.mark.slow


def prefill(interpreter: KernelProcess, rows: PagedRows) -> torch.Tensor:
    return interpreter.call(
        "prefill_attention.paged_prefill",
        rows.query,
        rows.kv,
        rows.block_tables,
        rows.context_tokens,
        rows.token_starts,
        max(rows.new),
    )


@pytest.mark.parametrize(
    ("shape", "cached", "new"),
    [
        pytest.param(Shape(), [0], [37], id="a prompt from its start"),
        pytest.param(Shape(), [32], [21], id="a chunk behind whole pages"),
        pytest.param(Shape(), [5], [40], id="a chunk behind part of a page"),
        pytest.param(Shape(), [0, 17, 3, 64], [1, 30, 2, 9], id="chunks of all lengths"),
        pytest.param(Shape(dtype=torch.float16, block_tokens=32), [0, 20], [33, 15], id="fp16, pages of 32"),
        pytest.param(Shape(dtype=torch.bfloat16, block_tokens=64), [0, 70], [20, 8], id="bf16, pages of 64"),
        pytest.param(Shape(heads=3, kv_heads=3), [4], [20], id="as many KV heads as query heads"),
        pytest.param(Shape(heads=7, kv_heads=1), [4], [9], id="a group of seven"),
        pytest.param(Shape(heads=20, kv_heads=1), [4], [3], id="a group wider than a tile"),
        pytest.param(Shape(heads=2, kv_heads=1, dim=24), [4], [9], id="a head that is no power of two"),
    ],
)
def test_prefill_attends_as_the_engine_on_cpu(
    interpreter: KernelProcess, shape: Shape, cached: list[int], new: list[int]
) -> None:
    rows = build_paged_rows(shape, cached, new)
    assert_near(prefill(interpreter, rows), rows.attend_on_cpu())


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    chunks=st.lists(st.tuples(st.integers(0, 70), st.integers(1, 30)), min_size=1, max_size=3),
    block_tokens=st.sampled_from([16, 32, 64]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_ragged_chunks_are_attended_right(
    interpreter: KernelProcess,
    chunks: list[tuple[int, int]],
    block_tokens: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    cached, new = zip(*chunks, strict=True)
    rows = build_paged_rows(Shape(block_tokens=block_tokens, dtype=dtype), cached, new, seed)
    assert_near(prefill(interpreter, rows), rows.attend_on_cpu())


@pytest.mark.parametrize("cut", [1, 16, 23])
def test_a_token_is_bitwise_the_same_however_its_prompt_is_cut(interpreter: KernelProcess, cut: int) -> None:
    whole = build_paged_rows(Shape(dtype=torch.bfloat16), [0, 12], [40, 11])
    part = PagedRows(whole.shape, [cut], [40 - cut], whole.query[cut:40], whole.kv, whole.block_tables[:1])
    assert torch.equal(prefill(interpreter, whole)[cut:40], prefill(interpreter, part))
